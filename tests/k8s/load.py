"""Clients of sampling that never stop asking, and count what comes back."""

import asyncio
import random
import threading
from collections import Counter
from typing import Self

import httpx


class Load:
    """Clients that never stop asking those whom their load balancer knows."""

    def __init__(self, secret: str, ips: list[str], clients: int = 6) -> None:
        self.known = [ips] * clients
        """Addresses, by client."""
        self.seen: Counter[tuple[str, int | str]] = Counter()
        """Answers by address and status, or by what went wrong."""
        self._headers = {"authorization": f"Bearer {secret}"}
        self._over = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._crowd()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join()

    async def _crowd(self) -> None:
        await asyncio.gather(*(self._client(number) for number in range(len(self.known))))

    async def _client(self, number: int) -> None:
        async with httpx.AsyncClient(headers=self._headers, timeout=60) as http:
            while not self._over:
                n = 512 if number == 0 else 8
                await self.ask(http, random.choice(self.known[number]), n)
                await asyncio.sleep(0.05)

    async def ask(self, http: httpx.AsyncClient, ip: str, n: int) -> None:
        body = {"model": "digits", "n": n, "format": "ndjson"}
        try:
            answer = await http.post(f"http://{ip}:8000/v1/samples", json=body)
        except httpx.HTTPError as error:
            self.seen[ip, repr(error)] += 1
        else:
            whole = answer.status_code != 200 or len(answer.text.splitlines()) == n
            self.seen[ip, answer.status_code if whole else "torn"] += 1

    def crowd_at(self, ip: str) -> None:
        """Sixteen requests at once, which together take seconds."""

        async def together() -> None:
            async with httpx.AsyncClient(headers=self._headers, timeout=60) as http:
                await asyncio.gather(*(self.ask(http, ip, 768) for _ in range(16)))

        asyncio.run(together())

    def failures(self) -> dict[tuple[str, int | str], int]:
        """Requests without a whole answer."""
        return {key: count for key, count in self.seen.items() if key[1] != 200}
