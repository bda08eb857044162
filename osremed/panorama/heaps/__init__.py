"""What is on the heap of a process: CPython, Java, C++ and glibc malloc, read from outside."""
