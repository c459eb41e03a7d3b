# SPDX-License-Identifier: GPL-3.0-or-later
"""A database of 5 GiB and a bucket of 100,000 objects go through in 512 MiB: of them 384 for each container of the run, and the rest for its program."""

import concurrent.futures
import io
import os
import shutil
import time

import pytest

GIBIBYTES, OBJECTS, THREADS = 5, 100_000, 8
CONTAINER, PROGRAM = "384m", 128 * 1024
# Nothing that compresses.
FILL = """
CREATE EXTENSION IF NOT EXISTS pgcrypto;
CREATE TABLE IF NOT EXISTS public.large (n bigserial PRIMARY KEY, b bytea);
ALTER TABLE public.large ALTER COLUMN b SET STORAGE EXTERNAL;
INSERT INTO public.large (b)
  SELECT (SELECT string_agg(gen_random_bytes(1024), '') FROM generate_series(1, 1024) k WHERE i = i) FROM generate_series(1, 128) i;
"""


def put_many(stack, thread: int) -> None:
    client = stack.s3()
    for number in range(thread, OBJECTS, THREADS):
        content = b"%d " % number + os.urandom(8)
        client.put(stack.bucket, f"many/{number % 97}/{number}", io.BytesIO(content), len(content), {"content-type": "text/plain"})
    client.close()


@pytest.fixture
def full_stack(stack):
    if shutil.disk_usage("/var/lib").free < 8 * GIBIBYTES * 1024**3:
        pytest.fail("This takes eight times the database's size of the disk.")
    for _part in range(GIBIBYTES * 8):
        stack.sql(FILL)
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda thread: put_many(stack, thread), range(THREADS)))
    yield stack
    stack.sql("DROP TABLE public.large")


def test_much_goes_through_in_little_memory(full_stack):
    stack = full_stack
    assert int(stack.sql("SELECT pg_database_size(current_database())")) > GIBIBYTES * 1024**3
    with stack.configured(memory=CONTAINER):
        for command in ("backup", "drill"):
            began = time.monotonic()
            process = stack.start(command)
            text = process.stdout.read()
            _pid, status, usage = os.wait4(process.pid, 0)
            print(f"{command}: {time.monotonic() - began:.0f} s, {usage.ru_maxrss // 1024} MiB in the program")
            assert os.waitstatus_to_exitcode(status) == 0, text
            assert usage.ru_maxrss < PROGRAM, text
    assert stack.sets()[-1][1] == "verified"
