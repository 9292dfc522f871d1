"""ASGI servers for the gateway's HTTP edge, side by side: Starlette, TLS, server-sent events, in one uvloop beside grpc.aio.

Each server runs in a process of its own as the gateway would hold it: embedded in a loop that is not its own, without its
signal handlers, beside a gRPC server. Rounds are interleaved. Measured: microseconds of CPU an event in a burst, the time
to the first event with several askers at once, how soon a hang-up reaches the handler; tried: whether the loop's own gRPC
server goes on answering, a certificate that changes, a header that never ends, a drain with a stream in flight.

    pip install hypercorn granian httptools; python -m bench.http_servers --rounds 7
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from tests.pki import Authority  # noqa: E402

SERVERS = ("uvicorn", "hypercorn", "granian")
EVENT = b'event: token\ndata: {"text": "\xe6\x89\x93\xe5\x8d\xb0\xe6\x9c\xba offline"}\n\n'
EVENTS, ASKERS = 4000, 16


# --- the child: one server in one loop, beside gRPC -------------------------------------------------------------------------


def app_of(state: dict[str, Any]) -> Starlette:
    """A burst, a paced stream that notes when it is cancelled, and what the process used."""

    async def burst(request: Request) -> Response:
        async def events() -> AsyncIterator[bytes]:
            for _ in range(EVENTS):
                yield EVENT
                await asyncio.sleep(0)

        return StreamingResponse(events(), media_type="text/event-stream")

    async def paced(request: Request) -> Response:
        seconds = float(request.query_params.get("seconds", "60"))

        async def events() -> AsyncIterator[bytes]:
            try:
                for _ in range(int(seconds / 0.05)):
                    yield EVENT
                    await asyncio.sleep(0.05)
            finally:
                state["ended"] = time.time()

        return StreamingResponse(events(), media_type="text/event-stream")

    async def facts(request: Request) -> Response:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return JSONResponse({"cpu": used.ru_utime + used.ru_stime, "rss": used.ru_maxrss, **state})

    return Starlette(routes=[Route("/burst", burst), Route("/paced", paced), Route("/facts", facts)])


Stop = Callable[[], Awaitable[None]]


async def uvicorn_server(app: Starlette, port: int, cert: Path, key: Path) -> tuple[Stop, Callable[[], None]]:
    import uvicorn

    class Embedded(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Any:
            yield

    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False
    )
    config.load()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    config.ssl = context
    server = Embedded(config)
    serving = asyncio.create_task(server.serve())

    async def stop() -> None:
        server.should_exit = True
        await serving

    # New handshakes of a context show what it holds then.
    return stop, lambda: context.load_cert_chain(cert, key)


async def hypercorn_server(app: Starlette, port: int, cert: Path, key: Path) -> tuple[Stop, Callable[[], None]]:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    contexts = []

    class Following(Config):
        def create_ssl_context(self) -> Any:
            contexts.append(super().create_ssl_context())
            return contexts[-1]

    config = Following()
    config.bind, config.certfile, config.keyfile = [f"127.0.0.1:{port}"], str(cert), str(key)
    config.graceful_timeout, config.accesslog, config.errorlog, config.read_timeout = 30, None, None, 3
    stopping = asyncio.Event()
    serving = asyncio.create_task(serve(app, config, shutdown_trigger=stopping.wait))  # type: ignore[arg-type]

    async def stop() -> None:
        stopping.set()
        await serving

    return stop, lambda: contexts[-1].load_cert_chain(cert, key)


async def granian_server(app: Starlette, port: int, cert: Path, key: Path) -> tuple[Stop, Callable[[], None]]:
    from granian.constants import Interfaces, SSLProtocols
    from granian.http import HTTP1Settings
    from granian.server.embed import Server

    server = Server(
        app,
        port=port,
        interface=Interfaces.ASGI,
        ssl_cert=cert,
        ssl_key=key,
        ssl_protocol_min=SSLProtocols.tls12,
        http1_settings=HTTP1Settings(header_read_timeout=3000),
        log_enabled=False,
    )
    serving = asyncio.create_task(server.serve())

    async def stop() -> None:
        server.stop()
        await serving

    return stop, lambda: None  # rustls has read its files; there is no way to tell it


async def child(name: str, port: int, grpc_port: int, cert: Path, key: Path) -> None:
    """Serves until SIGTERM, which the process handles itself; SIGHUP takes new certificates over."""
    state: dict[str, Any] = {"ended": 0.0}
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    grpc_server = grpc.aio.server()

    async def echo(request: bytes, _context: Any) -> bytes:
        return request

    handler = grpc.method_handlers_generic_handler("bench.Echo", {"Call": grpc.unary_unary_rpc_method_handler(echo)})
    grpc_server.add_generic_rpc_handlers((handler,))
    grpc_server.add_insecure_port(f"127.0.0.1:{grpc_port}")
    await grpc_server.start()
    stop, renew = await {"uvicorn": uvicorn_server, "hypercorn": hypercorn_server, "granian": granian_server}[name](
        app_of(state), port, cert, key
    )
    loop.add_signal_handler(signal.SIGHUP, renew)
    await stopping.wait()
    await stop()
    await grpc_server.stop(1)


# --- the parent: measures with a client of its own --------------------------------------------------------------------------


class Bench:
    """One running server."""

    def __init__(self, name: str, folder: Path, authority: Authority) -> None:
        self.authority = authority
        self.identity = authority.issue(f"http-{name}", dns=["localhost"])
        ports = []
        for _ in range(2):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                ports.append(probe.getsockname()[1])
        self.port, self.grpc_port = ports
        files = [str(self.identity.cert), str(self.identity.key)]
        with (folder / f"{name}.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, __file__, "--child", name, str(self.port), str(self.grpc_port), *files], stdout=log, stderr=log
            )
        self.context = ssl.create_default_context(cafile=str(authority.ca))

    async def open(self, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.context, server_hostname="localhost")
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return reader, writer

    async def get(self, path: str) -> bytes:
        reader, writer = await self.open(path)
        data = await reader.read()
        writer.close()
        return data

    async def facts(self) -> dict[str, float]:
        data = await self.get("/facts")
        return json.loads(data[data.index(b"{") : data.rindex(b"}") + 1])

    async def wait(self) -> None:
        for _ in range(200):
            with contextlib.suppress(OSError, ValueError):
                await self.facts()
                return
            await asyncio.sleep(0.05)
        raise SystemExit("a server did not start")

    async def serial(self) -> int:
        from cryptography import x509

        _, writer = await self.open("/facts")
        shown = writer.get_extra_info("ssl_object").getpeercert(True)
        writer.close()
        return x509.load_der_x509_certificate(shown).serial_number

    async def cpu_per_event(self) -> float:
        before = (await self.facts())["cpu"]
        data = await self.get("/burst")
        assert data.count(b"event: token") == EVENTS
        return 1e6 * ((await self.facts())["cpu"] - before) / EVENTS

    async def first_event(self) -> list[float]:
        async def one() -> float:
            began = time.perf_counter()
            reader, writer = await self.open("/paced?seconds=0.2")
            await reader.readuntil(b"event: token")
            took = time.perf_counter() - began
            await reader.read()
            writer.close()
            return 1000 * took

        return list(await asyncio.gather(*(one() for _ in range(ASKERS))))

    async def hang_up(self) -> float:
        reader, writer = await self.open("/paced")
        await reader.readuntil(b"event: token")
        await asyncio.sleep(0.12)
        left = time.time()
        writer.transport.abort()
        for _ in range(300):
            ended = (await self.facts())["ended"]
            if ended >= left:
                return 1000 * (ended - left)
            await asyncio.sleep(0.01)
        return float("nan")

    async def grpc_answers(self) -> bool:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel:
            burst = asyncio.create_task(self.get("/burst"))
            answers = [await channel.unary_unary("/bench.Echo/Call")(b"x", timeout=5) for _ in range(20)]
            await burst
        return answers == [b"x"] * 20

    async def follows_certificate(self) -> bool:
        before = await self.serial()
        renewed = self.authority.issue("renewed", dns=["localhost"])
        renewed.key.replace(self.identity.key)
        renewed.cert.replace(self.identity.cert)
        self.process.send_signal(signal.SIGHUP)
        await asyncio.sleep(0.3)
        return await self.serial() != before

    async def slow_header(self, patience: float = 12.0) -> str:
        """How long a client is let that sends a byte of its header a second."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.context, server_hostname="localhost")
        began = time.perf_counter()
        writer.write(b"GET /facts HTTP/1.1\r\nX: ")
        while time.perf_counter() - began < patience:
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(1):
                    if await reader.read(100) == b"" or reader.at_eof():
                        return f"closed after {time.perf_counter() - began:.0f} s"
            with contextlib.suppress(OSError):
                writer.write(b"a")
        writer.close()
        return f"still open after {patience:.0f} s"

    async def drains(self) -> str:
        reader, writer = await self.open("/paced?seconds=2")
        await reader.readuntil(b"event: token")
        self.process.send_signal(signal.SIGTERM)
        began = time.perf_counter()
        rest = b""
        with contextlib.suppress(OSError):
            rest = await reader.read()
        writer.close()
        whole = rest.count(b"event: token") == 39
        await asyncio.to_thread(self.process.wait, 40)
        return f"{'whole' if whole else 'cut'}, gone after {time.perf_counter() - began:.1f} s, code {self.process.returncode}"


async def measure(names: list[str], rounds: int) -> None:
    """Interleaved rounds, then what can be tried once."""
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority(Path(folder) / "pki")
        benches = {name: Bench(name, Path(folder), authority) for name in names}
        try:
            cpu: dict[str, list[float]] = {name: [] for name in names}
            first: dict[str, list[float]] = {name: [] for name in names}
            hang: dict[str, list[float]] = {name: [] for name in names}
            for bench in benches.values():
                await bench.wait()
                await bench.cpu_per_event()
            for _ in range(rounds):
                for name, bench in benches.items():
                    cpu[name].append(await bench.cpu_per_event())
                    first[name] += await bench.first_event()
                    hang[name].append(await bench.hang_up())
            print("| server | µs an event | times uvicorn | first event ms (10 to 90 %) | hang-up seen ms | RSS MB |")
            print("|---|---|---|---|---|---|")
            for name, bench in benches.items():
                deciles = statistics.quantiles(first[name], n=10)
                ratios = [a / b for a, b in zip(cpu[name], cpu[names[0]], strict=True)]
                print(
                    f"| {name} | {statistics.median(cpu[name]):.1f} ({min(cpu[name]):.1f} to {max(cpu[name]):.1f}) "
                    f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
                    f"| {statistics.median(first[name]):.1f} ({deciles[0]:.1f} to {deciles[-1]:.1f}) "
                    f"| {statistics.median(hang[name]):.0f} ({min(hang[name]):.0f} to {max(hang[name]):.0f}) "
                    f"| {(await bench.facts())['rss'] / 1024:.0f} |"
                )
            for name, bench in benches.items():
                print(f"{name}: gRPC answers beside it: {await bench.grpc_answers()}", flush=True)
                print(f"{name}: follows its certificate: {await bench.follows_certificate()}", flush=True)
                print(f"{name}: a header that never ends: {await bench.slow_header()}", flush=True)
                print(f"{name}: drain with a stream of 2 s: {await bench.drains()}", flush=True)
        finally:
            for bench in benches.values():
                bench.process.kill()
                bench.process.wait()


def main() -> None:
    """Parent or child."""
    if sys.argv[1:2] == ["--child"]:
        name, port, grpc_port, cert, key = sys.argv[2:]
        uvloop.run(child(name, int(port), int(grpc_port), Path(cert), Path(key)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--servers", nargs="+", default=list(SERVERS), choices=SERVERS)
    given = parser.parse_args()
    asyncio.run(measure(given.servers, given.rounds))


if __name__ == "__main__":
    main()
