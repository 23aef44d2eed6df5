"""What in Markdown is code or a formula: regular expressions, for `re.MULTILINE | re.DOTALL`."""

from __future__ import annotations

FENCE = r"^ {0,3}(?P<marks>`{3,}|~{3,})[^\n]*(?:\n.*?)??(?:^ {0,3}(?P=marks)[`~]*[ \t]*$|\Z)"
"""A block of code; it may still be being written."""

SPAN = r"(?<!`)(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)"
"""Code in a line."""

MATH = (
    r"\$\$(?P<dollars>.+?)\$\$|\\\[(?P<brackets>.+?)\\\]|\\\((?P<parens>.+?)\\\)"
    # Pandoc's rule, by which "$5 and $6" is no formula
    r"|(?<![\\$\w])\$(?=[^\s$])(?P<inline>[^$\n]*?[^\s\\$])\$(?![\d$])"
)
"""A formula, within any of the usual delimiters; each group is the formula without them."""
