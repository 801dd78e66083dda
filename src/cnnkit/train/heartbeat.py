"""How the processes of one run learn that one of them has ended, so that none waits for it for ever.

Each process writes a growing number into the store that they share, once a second, and looks whether the next
one's number grows. The first that fails, or that finds another silent, writes down why; the others read it
and end too. Only that first one says it aloud. A process that cannot notice by itself, since it waits for an
exchange that will never be complete, is ended by the thread that watches.
"""

import json
import os
import sys
import threading
import time
from typing import Any
from uuid import uuid4

from torch.distributed.distributed_c10d import PrefixStore, Store

#: Seconds between two beats; of silence after which a process counts as gone; and that a process has to end
#: by itself. A killed process so ends the others within 20 seconds.
BEAT, SILENT, GRACE = 1.0, 15.0, 5.0

#: Seconds in which every living process is heard of, when the reason for an error is looked for.
ROUND = 5.0


def meet(store: Store, rank: int, size: int) -> Store:
    """A part of the store in which nobody but the processes of this start has written, once all are there.

    Torchrun keeps one store over restarts, with the addresses and beats of processes that have ended. So each
    process says hello under a name of its own, and the first answers each hello, the old ones too, until it
    has heard from everybody.
    """
    name = uuid4().hex
    if rank:
        store.set(f"hello/{rank}", name)
        name = store.get(f"answer/{name}").decode()
        store.set(f"met/{name}/{rank}", "")
        return PrefixStore(name, store)
    missing = list(range(1, size))
    while missing:
        for other in missing:
            if store.check([f"hello/{other}"]):
                store.set(f"answer/{store.get(f'hello/{other}').decode()}", name)
        missing = [other for other in missing if not store.check([f"met/{name}/{other}"])]
        time.sleep(BEAT / 20)
    return PrefixStore(name, store)


class Watch:
    """One process's watch over the others.

    Args:
        store: shared by all; not used by anything else in this process, as a waiting call would block it.
        rank: this process's number, from 0.
        size: how many there are.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.store, self.rank, self.size = store, rank, size
        self.beats = 0
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)
        self.beat()
        self.thread.start()

    def beat(self) -> None:
        """Say that this process is alive."""
        with self.lock:
            self.beats += 1
            self.store.set(f"beat/{self.rank}", str(self.beats))

    def heard(self, rank: int) -> int:
        """How often another has said so."""
        key = f"beat/{rank}"
        return int(self.store.get(key)) if self.store.check([key]) else 0

    def tell(self, code: int, words: str) -> bool:
        """Say why the run ends; whether this process is the first to say so."""
        mine = json.dumps({"rank": self.rank, "code": code, "words": words})
        try:
            return self.store.compare_set("ended", "", mine).decode() == mine
        except RuntimeError:  # the store's own process is gone, and with it who could have been first
            return self.rank == 0

    def told(self) -> dict[str, Any] | None:
        """Who ended the run, with which exit code and words, where one has."""
        return json.loads(self.store.get("ended")) if self.store.check(["ended"]) else None

    def stop(self) -> None:
        """End watching."""
        self.over.set()
        if self.thread is not threading.current_thread():
            self.thread.join()

    def reason(self) -> dict[str, Any] | None:
        """Why an exchange failed or a signal came: what another told, or who is gone; None if all live."""
        self.over.set()  # from here on this thread watches
        try:
            before = {rank: self.heard(rank) for rank in range(self.size) if rank != self.rank}
            until = time.monotonic() + ROUND
            while time.monotonic() < until:
                self.beat()
                if found := self.told():
                    return found
                before = {rank: beats for rank, beats in before.items() if self.heard(rank) == beats}
                if not before:
                    return None
                time.sleep(BEAT / 5)
        except RuntimeError:
            return {"rank": self.rank, "code": 1, "words": LOST}
        return {"rank": self.rank, "code": 1, "words": gone(min(before), self.size)}

    def waited(self) -> dict[str, Any] | None:
        """What another tells within a round, where one does."""
        until = time.monotonic() + ROUND
        while (found := self.told()) is None and time.monotonic() < until:
            self.beat()
            time.sleep(BEAT / 5)
        return found

    def _watch(self) -> None:
        following = (self.rank + 1) % self.size
        last, since = 0, time.monotonic()
        while not self.over.wait(BEAT):
            try:
                self.beat()
                now = self.heard(following)
                if now != last:
                    last, since = now, time.monotonic()
                elif time.monotonic() - since > SILENT:
                    self._end(1, gone(following, self.size))
                if found := self.told():
                    self._end(found["code"], "")
            except RuntimeError:
                self._end(1, LOST)

    def _end(self, code: int, words: str) -> None:
        """End this process, unless it does so by itself within the grace."""
        first = bool(words) and self.tell(code, words)
        if self.over.wait(GRACE):
            return
        if first:
            sys.stderr.write(f"error: {words}\n")
            sys.stderr.flush()
        os._exit(code)


LOST = "the connection to the other processes is lost; go on with --resume"


def gone(rank: int, size: int) -> str:
    """What is said of a process that no longer beats."""
    return (
        f"process {rank + 1} of {size} was killed or cannot be reached; go on with --resume, "
        f"which torchrun --max-restarts does by itself"
    )
