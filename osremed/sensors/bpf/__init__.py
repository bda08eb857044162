"""BPF programs, compiled by the build and loaded through libbpf.so.1: no compiler, no package on the host."""
