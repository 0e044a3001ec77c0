"""What the proxy does with a connection that was handed to it: its own connection, asked about."""

from __future__ import annotations

from meshnet.model.address import read_address
from meshnet.model.frozen import replace
from meshnet.model.spec import PASSTHROUGH, CaptureSpec, Inbound
from meshnet.reason.ask import Question

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.model.proxy import Proxy

#: More legs than this are not followed: it goes round, or it is no mesh.
MOST_LEGS = 4


def proxy_ids(spec: CaptureSpec | None, proxy: Proxy | None) -> tuple[int, int] | None:
    """The proxy's UID and GID: who listens, else whom the rules mean; None where nobody knows."""
    if proxy is not None and proxy.pids and not proxy.by_name and proxy.uid >= 0:
        return proxy.uid, proxy.gid
    if spec is not None:
        return spec.uids[0][0], spec.gids[0][0]
    if proxy is not None and proxy.uid >= 0:
        return proxy.uid, proxy.gid
    return None


def is_inbound(question: Question, port: int, spec: CaptureSpec | None) -> bool:
    """Whether ``port``, which captured the packet, takes what is meant for the application."""
    if spec is None or spec.proxy_port == spec.inbound_port:
        return question.inbound
    if port == spec.inbound_port:
        return True
    return question.inbound and port != spec.proxy_port


def next_question(
    question: Question, port: int, spec: CaptureSpec | None, ids: tuple[int, int]
) -> Question:
    """The proxy's own connection: on to where it was dialled, or in to the application.

    To the application Envoy speaks from 127.0.0.6 or ::6; where TPROXY captures, from the client's
    own address, with TPROXY's mark.
    """
    uid, gid = ids
    plain = replace(question, uid=uid, gid=gid, socket=True, sport=None, iif="", state="new")
    if not is_inbound(question, port, spec):
        return replace(plain, mark=0, src=None)
    if spec is not None and spec.inbound is Inbound.TPROXY:
        return replace(plain, mark=spec.tproxy_mark, oif="lo")
    source = read_address(PASSTHROUGH[question.family])[1]
    return replace(plain, mark=0, oif="lo", src=source)
