"""The programs of the stories. Each runs alone under `python3 -I -S` and takes its name from its task."""
