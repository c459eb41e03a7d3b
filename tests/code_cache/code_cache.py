# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep what Python compiles of Ansible's modules, as ccache does for C: each run of a module brings its sources along in an archive and compiles them twice.

Only where the tests say so, with the directory in an environment variable. What is kept belongs to the source's own text and this very Python.
"""

import contextlib
import hashlib
import importlib.util
import marshal
import os
import sys
import zipimport

DIRECTORY = os.environ.get("CAMPAIGN_TESTS_CODE_CACHE", "")
_compile = zipimport._compile_source


def compiled(path, source):
    """Return the code of a source file in an archive, and keep it."""
    text = source if isinstance(source, bytes) else bytes(source)
    # The archive has another name each time, and tells nothing of what is in it.
    name = hashlib.sha256(b"\0".join([importlib.util.MAGIC_NUMBER, sys.version.encode(), path.partition(".zip")[2].encode(), text])).hexdigest()
    kept = os.path.join(DIRECTORY, name)
    with contextlib.suppress(OSError, ValueError, EOFError, TypeError), open(kept, "rb") as file:
        return marshal.load(file)
    code = _compile(path, source)
    with contextlib.suppress(OSError):
        temporary = f"{kept}.{os.getpid()}"
        with open(temporary, "xb") as file:
            marshal.dump(code, file)
        os.replace(temporary, kept)
    return code


if os.path.isdir(DIRECTORY):
    zipimport._compile_source = compiled
