"""Programs whose outputs do not depend on where they run: what a model writes for an interpreter."""

from __future__ import annotations

import random

FIXED = (
    "print('你好, wörld')",
    "1 + 1",
    "'text'",
    "None",
    "print(1); print(2); 3",
    "import sys; print('out'); print('err', file=sys.stderr); print('out again')",
    "1 / 0",
    "[][1]",
    "{}['missing']",
    "undefined",
    "x = = 1",
    "def f(n):\n    return f(n - 1) if n else 1 / 0\nf(3)",
    "raise ValueError('中文')",
    "assert False, 'no'",
    "import json\njson.dumps({'a': [1, 2.5, None, True]}, ensure_ascii=False)",
    "import re\nre.findall(r'\\d+', 'a1b22c333')",
    "import math\n[round(math.sin(x / 10), 6) for x in range(10)]",
    "import statistics\nstatistics.stdev([2, 4, 4, 4, 5, 5, 7, 9])",
    "import numpy as np\nnp.arange(12).reshape(3, 4)",
    "import numpy as np\nprint(np.linalg.solve([[3.0, 1.0], [1.0, 2.0]], [9.0, 8.0]).round(6))",
    "import numpy as np\nrng = np.random.default_rng(7)\nrng.integers(0, 100, 8).tolist()",
    "import pandas as pd\npd.DataFrame({'a': [1, 2, 3], 'b': ['x', 'y', 'z']})",
    "import pandas as pd\nd = pd.DataFrame({'k': list('aab'), 'v': [1, 2, 3]})\nd.groupby('k').v.sum()",
    "import matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\nplt.show()\nprint('drawn')",
    "import matplotlib.pyplot as plt\nfor i in range(3):\n    plt.bar([1, 2], [i, 1])\n    plt.show()",
    "open('a.txt', 'w').write('hello')\nprint(open('a.txt').read())",
    "import os\nos.makedirs('d/e', exist_ok=True)\nopen('d/e/f', 'w').close()\nsorted(os.listdir('d'))",
    "import csv, io\nlist(csv.reader(io.StringIO('a,b\\n1,2')))",
    "import tempfile\nwith tempfile.TemporaryFile() as f:\n    f.write(b'abc'); f.seek(0); print(f.read())",
    "import threading\nt = threading.Thread(target=lambda: print('from a thread'))\nt.start(); t.join()",
    "import datetime\ndatetime.date(2024, 2, 29) + datetime.timedelta(days=366)",
    "from fractions import Fraction\nFraction(1, 3) + Fraction(1, 6)",
    "import decimal\ndecimal.getcontext().prec = 50\ndecimal.Decimal(2).sqrt()",
    "import random\nrandom.seed(1)\n[random.randint(1, 6) for _ in range(10)]",
    "import hashlib\nhashlib.sha256(b'abc').hexdigest()",
    "import zlib\nlen(zlib.compress(b'a' * 10000))",
    "import asyncio\nawait asyncio.sleep(0)\n'awaited'",
    "import itertools\nlist(itertools.permutations('abc', 2))",
    "class A:\n    def __repr__(self): return 'an A'\nA()",
    "import warnings\nwarnings.warn('careful')",
    "import shutil\nopen('b.txt', 'w').write('x')\nshutil.copy('b.txt', 'c.txt')\nopen('c.txt').read()",
    "import sqlite3\nc = sqlite3.connect(':memory:')\nc.execute('select 1 + 1').fetchall()",
    "import pickle\npickle.loads(pickle.dumps({'a': (1, 2)}))",
    "input('name? ')",
    "import sys\nsys.exit(3)",
    "print('\\x1b[31mred\\x1b[0m'); print('a\\rb')",
    "%time 1",
    "_",
)  # fmt: skip


def programs(count: int) -> list[str]:
    """The fixed programs, and random ones made of statements, up to `count`; always the same."""
    rng = random.Random(0)
    made = [program for program in FIXED if not program.startswith("%")]
    while len(made) < count:
        made.append("\n".join(_statement(rng, depth=0) for _ in range(rng.randint(1, 6))))
    return made[:count]


def _expression(rng: random.Random, depth: int) -> str:
    if depth > 2 or rng.random() < 0.3:
        return rng.choice(
            [str(rng.randint(-9, 99)), "a", "b", "len(s)", "1.5", "s", "'x'", "[1, 2]", "a // b"]
        )
    left, right = _expression(rng, depth + 1), _expression(rng, depth + 1)
    form = rng.choice(
        ["({l} {o} {r})", "max({l}, {r})", "[{l}, {r}]", "str({l}) + str({r})", "abs({l})", "({l} == {r})"]
    )
    return form.format(l=left, r=right, o=rng.choice(["+", "-", "*", "%"]))


def _statement(rng: random.Random, depth: int) -> str:
    value = _expression(rng, 0)
    inner = "\n    ".join(_statement(rng, depth + 1).splitlines()) if depth < 2 else "pass"
    return rng.choice(
        [
            f"print({value})",
            f"a = {value}",
            f"s = str({value})",
            value,
            f"for b in range({rng.randint(0, 4)}):\n    {inner}",
            f"try:\n    {inner}\nexcept Exception as error:\n    print(type(error).__name__)",
            f"if {value}:\n    {inner}",
            f"def f(b):\n    {inner}\n    return b\nprint(f(3))",
        ]
    )
