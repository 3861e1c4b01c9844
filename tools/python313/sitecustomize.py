"""Let setup.py files of before Python 3.13 run: on the PYTHONPATH, Python imports this by itself.

They read their version by `exec(...)` and `locals()` within a function. Since Python 3.13 (PEP 667)
what `exec` assigns no longer shows in `locals()`; here it does again.
"""

import builtins
import sys

plain_exec = builtins.exec


def exec_into_caller(code, *namespaces, **options):
    frame = sys._getframe(1)
    if namespaces or options or frame.f_locals is frame.f_globals:
        return plain_exec(code, *(namespaces or (frame.f_globals,)), **options)
    names = dict(frame.f_locals)
    plain_exec(code, frame.f_globals, names)
    frame.f_locals.update(names)


if sys.version_info >= (3, 13):
    builtins.exec = exec_into_caller
