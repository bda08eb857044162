"""Test hosts of the project: namespace hosts (`nspawn`) and virtual machines (`vm`), on root trees from packages."""
