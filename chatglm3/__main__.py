"""`python -m chatglm3`, the same as the `chatglm3` command."""

from chatglm3.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
