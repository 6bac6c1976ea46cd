"""
The same server in other frameworks, one a file: `python -m bench.peers.starlette <port>`.

Each is written as its framework's documentation has it, on the server that is usual for it. What they have
in common, MongoDB above all, is in `bench.work`. Where there is a choice, they have the faster way.
"""
