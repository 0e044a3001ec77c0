"""What holds rules in the kernel: one module a backend, the same five verbs each.

``probe`` says whether the backend can work here, ``read`` what it holds, ``plan`` what
would have to change (a value, pure but for the reading), ``apply`` changes it, and
``remove`` plans to take away all that is ours.
"""

from __future__ import annotations

from meshnet.backends.base import Backend, Plan, Step

__all__ = ["NAMES", "Backend", "Plan", "Step", "load_backend"]

#: In the order in which "auto" prefers them, where nothing else decides.
NAMES = ("nft-compat", "nft", "legacy")


def load_backend(name: str, lock_wait: float = 30.0) -> Backend:
    """The backend called ``name``; its imports happen here. KeyError for another name."""
    if name == "nft":
        from meshnet.backends.nft import Nft

        return Nft()
    if name == "nft-compat":
        from meshnet.backends.nft_compat import NftCompat

        return NftCompat()
    if name == "legacy":
        from meshnet.backends.legacy import Legacy

        return Legacy(lock_wait)
    raise KeyError(name)
