"""Turns a finished run into Markdown, one self-contained HTML file, and SVG drawings."""
