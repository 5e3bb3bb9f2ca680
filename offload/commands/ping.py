"""Command `nearfar link ping`: reaches every cloud that is set up and measures the link."""

from __future__ import annotations

import asyncio

import msgspec

from backbone.terminal_text import echo, echo_json
from offload.config.places import places
from offload.config.settings_reading import load
from offload.errors import CloudUnreachable
from offload.hybrid.clouds import CloudTest, reach_all
from offload.link.link_quality import LinkMeasure


def ping(*, num_pings: int, as_json: bool) -> None:
    """Print what stands at each address. Raises LinkError where none answers, SettingsError."""
    here = places()
    found = asyncio.run(reach_all(load(here.config_file).cloud, here, num_pings=num_pings))
    if all(each.error for each in found):
        raise CloudUnreachable("; ".join(each.error for each in found if each.error))
    if as_json:
        echo_json(msgspec.json.encode({"clouds": found}).decode())
    else:
        echo("\n".join(map(_told, found)))


def _told(found: CloudTest) -> str:
    if found.card is None:
        return f"{found.url}: {found.error}"
    if found.measure is None:  # over HTTP
        return f"{found.url}: {found.card.name} answers"
    size = f"{found.card.num_parameters / 1e6:.1f}M parameters, {found.card.quantization}"
    return "\n".join(
        [f"{found.url}: {found.card.name} ({size})", *_figures(found.measure), _queue(found)]
    )


def _figures(measured: LinkMeasure) -> list[str]:
    if measured.rtt_p50_s is None or measured.rtt_p95_s is None or measured.rtt_p99_s is None:
        return ["  no ping was answered in time"]
    trips = ", ".join(
        f"{name} {trip_s * 1e3:.2f} ms"
        for name, trip_s in (
            ("median", measured.rtt_p50_s),
            ("p95", measured.rtt_p95_s),
            ("p99", measured.rtt_p99_s),
        )
    )
    lines = [f"  round trip  {trips}; {measured.loss:.0%} not answered in time"]
    if measured.bytes_per_s is not None:
        lines.append(f"  throughput  {measured.bytes_per_s / 1e6:.2f} MB/s, both ways together")
    if measured.clock_offset_s is not None:
        ahead = "ahead of" if measured.clock_offset_s > 0 else "behind"
        lines.append(f"  clock       {abs(measured.clock_offset_s) * 1e3:.1f} ms {ahead} ours")
    return lines


def _queue(found: CloudTest) -> str:
    waited = "" if found.queue_s is None else f", the last answers waited {found.queue_s:.2f} s"
    return f"  queue       {found.num_waiting} waiting{waited}"
