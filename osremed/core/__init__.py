"""The words every room shares. Standard library only; imports no other room."""
