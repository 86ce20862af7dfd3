"""Sections of bench_serving that compare our own formats and protocols with each other."""

import asyncio
import time

from benchmarks import servers
from benchmarks.report import header, spread
from benchmarks.servers import Server
from benchmarks.serving_speed import (
    SIZES,
    Contest,
    bars,
    contest_of,
    footer,
    middle,
    ratios,
    rounds_of,
)
from benchmarks.wrk import Load, Turn, turn
from tests.ports import free_port


def formats(artifact: str, rounds: int) -> str:
    """PNG and JSON answers against raw bytes."""
    body = '{"model": "digits", "n": N, "seed": %d, "format": "FORM"}'
    forms = {n: (("npy", "png", "json") if n == 1 else ("npy", "json")) for n in SIZES}
    contests: list[tuple[str, str, Contest]] = []
    with servers.ours(artifact) as server:
        for n, names in forms.items():
            for form in names:
                load = Load(n=n, connections=16, body=body.replace("FORM", form))
                turn(server, load, 1)
                contests.append((form, str(n), contest_of(server, load)))
        turns = rounds_of(contests, rounds)
    limits = {"png": 0.9, "json": 0.85}
    rows = [
        (
            f"{form}, n = {n}: {middle(turns[form, str(n)]):,.0f} samples/s"
            f" / {middle(turns['npy', str(n)]):,.0f} raw",
            ratios(turns[form, str(n)], turns["npy", str(n)]),
            limits[form],
            "higher",
        )
        for n, names in forms.items()
        for form in names[1:]
    ]
    return "\n".join(
        [
            "## What PNG and JSON cost",
            "",
            header("ray", "onnxruntime", "pillow", "orjson"),
            "",
            "Samples/s of one replica at 16 connections by the format asked for; images are 28 x 28"
            " and every PNG carries its provenance. JSON holds them as base64 PNG.",
            "",
            *bars(rows),
            "",
            footer(turns, rounds),
        ]
    )


def protocols(artifact: str, rounds: int) -> str:
    """The Open Inference Protocol beside the native route."""
    oip = '{"parameters": {"n": N, "seed": %d, "binary_data_output": true}}'
    contests: list[tuple[str, str, Contest]] = []
    with servers.ours(artifact, "--grpc-port", str(free_port())) as server:
        for n in SIZES:
            native = Load(n=n, connections=16)
            http = Load(n=n, connections=16, path="/v2/models/digits/infer", body=oip)
            for name, contest in (
                ("native", contest_of(server, native)),
                ("OIP, HTTP, binary", contest_of(server, http)),
                ("OIP, gRPC", _grpc(server, n)),
            ):
                contest()
                contests.append((name, str(n), contest))
        turns = rounds_of(contests, rounds)
    lines = [
        "| n | | samples/s | / native | CPU of a request, µs | / native |",
        "|--:|---|--:|--:|--:|--:|",
    ]
    for (name, n), measured in turns.items():
        native_turns = turns["native", n]
        lines.append(
            f"| {n} | {name} | {middle(measured):,.0f} | {spread(ratios(measured, native_turns))}"
            f" | {middle(measured, 'cpu_us'):.0f}"
            f" | {spread(ratios(measured, native_turns, 'cpu_us'))} |"
        )
    return "\n".join(
        [
            "## Protocols",
            "",
            header("ray", "onnxruntime", "grpcio"),
            "",
            "One replica, 16 requests at a time. wrk is the client over HTTP, grpc.aio over gRPC:"
            " it takes more of the two cores, so the replica's CPU tells more than samples/s.",
            "",
            *lines,
            "",
            footer(turns, rounds),
        ]
    )


def _grpc(server: Server, n: int) -> Contest:
    def contest() -> Turn:
        before_s = server.cpu_s()
        good, bad, seconds = asyncio.run(_calls(server.grpc(), n))
        cpu_s = server.cpu_s() - before_s
        return Turn(samples_per_s=good * n / seconds, cpu_us=cpu_s / max(1, good) * 1e6, bad=bad)

    return contest


async def _calls(target: str, n: int) -> tuple[int, int, float]:
    """(answers, errors, seconds) of 16 callers for a second."""
    import grpc  # type: ignore[import-untyped]

    from serve.protocols.oip.protobuf import MESSAGES, SERVICE

    started_s = time.monotonic()
    counts = [0, 0]
    async with grpc.aio.insecure_channel(target) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")

        async def caller(number: int) -> None:
            seed = number * 10**6
            while time.monotonic() < started_s + 1:
                seed += 1
                request = MESSAGES["ModelInferRequest"](model_name="digits")
                request.parameters["n"].int64_param = n
                request.parameters["seed"].int64_param = seed
                try:
                    await infer(request.SerializeToString())
                    counts[0] += 1
                except grpc.RpcError:
                    counts[1] += 1

        await asyncio.gather(*map(caller, range(16)))
        return counts[0], counts[1], time.monotonic() - started_s
