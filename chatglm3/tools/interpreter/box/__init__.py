"""What runs in the box: the code's kernel, the supervisor in front of it, and the walls around both.

This package is started by path, as a program of its own, in a Python without chatglm3: its modules import
each other relatively, the standard library and, in `client`, `kernel` and `stream`, Jupyter.

    launch.py       the first process: namespaces, then waits for
    supervisor.py   process 1 of the box: runs cells, keeps time and memory, moves files
    kernel.py       ipykernel, which runs the code
"""
