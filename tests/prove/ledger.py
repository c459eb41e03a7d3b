# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes numbers into PostgreSQL, Redis and MinIO all the time, and remembers which of them were acknowledged. None of those may be lost."""

import json
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from conftest import PROJECT, Stack

KEY = "campaign:probe:api:ledger"
SECONDS = 20.0
# Thousands are read back at once.
READING_SECONDS = 600.0
NOTHING: dict[str, list[int]] = {"postgres": [], "redis": [], "minio": []}


@dataclass
class Book:
    """What one store was given, and what it acknowledged."""

    acknowledged: set[int] = field(default_factory=set)
    refused: int = 0
    last: int = 0


class Ledger:
    """A writer for each store, which goes on until it is left, and goes on counting when it is entered again.

    It counts from the time on, so that no number is one that another ledger wrote.
    """

    def __init__(self, stack: Stack):
        self.stack, self.stopping = stack, threading.Event()
        self.books = {store: Book(last=int(time.time() * 100)) for store in NOTHING}
        secrets = json.loads(stack.secrets.read_text())
        url = stack.docker("exec", stack.containers()["api"]["Id"], "cat", "/run/secrets/redis_url")
        self.redis = ["redis-cli", "--no-auth-warning", "-u", url.replace("@redis:", "@127.0.0.1:")]
        self.minio = f"export MC_HOST_s=http://{secrets['s3_access_key']}:{secrets['s3_secret_key']}@127.0.0.1:9000 MC_CONFIG_DIR=/tmp/ledger"
        self.bucket = next(line.partition("=")[2].strip("\"'") for line in stack.read("current/.env").splitlines() if line.startswith("S3_BUCKET="))
        stack.sql("CREATE TABLE IF NOT EXISTS public.acknowledged (n bigint PRIMARY KEY)")

    def ask(self, store: str, *command: str, given: str = "", seconds: float = SECONDS) -> str:
        """Return what a command in a store's container prints, empty where it fails."""
        full = [*self.stack.prefix, "docker", "exec", "--interactive", f"{PROJECT}-{store}-1", *command]
        try:
            done = subprocess.run(full, input=given, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    def psql(self, statement: str) -> str:
        return self.ask("postgres", "psql", "-v", "ON_ERROR_STOP=1", "-qtA", "-U", "campaign_user", "-d", "campaign_db", "-c", statement)

    def write(self, store: str, number: int) -> bool:
        """Write a number; return whether the store acknowledged it."""
        if store == "postgres":
            return self.psql(f"INSERT INTO public.acknowledged VALUES ({number}) RETURNING n") == str(number)
        if store == "redis":
            return self.ask("redis", *self.redis, "set", f"{KEY}:{number}", str(number)) == "OK"
        return '"status":"success"' in self.ask("minio", "sh", "-c", f"{self.minio}; echo {number} | mc --json pipe s/{self.bucket}/ledger/{number}")

    def lost(self) -> dict[str, list[int]]:
        """Return what was acknowledged and is not there, by store."""
        readers: dict[str, Callable[[set[int]], set[int]]] = {"postgres": self.rows, "redis": self.keys, "minio": self.objects}
        return {store: sorted(book.acknowledged - readers[store](book.acknowledged)) for store, book in self.books.items()}

    def rows(self, _numbers: set[int]) -> set[int]:
        return {int(line) for line in self.psql("SELECT n FROM public.acknowledged").split()}

    def keys(self, numbers: set[int]) -> set[int]:
        """Return the numbers that Redis gives back. Its user may not list keys."""
        script = "".join(f"get {KEY}:{number}\n" for number in sorted(numbers))
        said = self.ask("redis", *self.redis, given=script, seconds=READING_SECONDS)
        return {int(line) for line in said.split() if line.isdigit()}

    def objects(self, _numbers: set[int]) -> set[int]:
        """Return the numbers of objects whose content is what was written."""
        script = f"mc --quiet cp --recursive s/{self.bucket}/ledger/ /tmp/read/ >/dev/null && cd /tmp/read && grep -rH . ."
        rows = (
            line.removeprefix("./").partition(":") for line in self.ask("minio", "sh", "-c", f"{self.minio}; {script}", seconds=READING_SECONDS).splitlines()
        )
        return {int(name) for name, _colon, content in rows if name == content}

    def go(self, store: str) -> None:
        book = self.books[store]
        while not self.stopping.is_set():
            book.last += 1
            if self.write(store, book.last):
                book.acknowledged.add(book.last)
            else:
                book.refused += 1
                self.stopping.wait(0.2)

    def __enter__(self) -> "Ledger":
        self.stopping.clear()
        self.threads = [threading.Thread(target=self.go, args=[store]) for store in self.books]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_error: Any) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()

    def told(self) -> str:
        return ", ".join(f"{store} {len(book.acknowledged)} ({book.refused} refused)" for store, book in self.books.items())
