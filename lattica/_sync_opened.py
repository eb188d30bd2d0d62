"""Opened objects for programs that do not use Trio: what `Node.open` gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from lattica._progress import shown
from lattica._sync_reads import BlockingReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lattica._opened import OpenObject
    from lattica._sync_reads import Call
    from lattica.cid import CID
    from lattica.codec import Array
    from lattica.identity import PeerId
    from lattica.models import LazyTensor, Manifest, Rule, SignedManifest, TensorInfo
    from lattica.results import ProgressCallback


class BlockingObject(BlockingReader):
    """An object that is open, until `close` or the end of its block or node; see `OpenObject`."""

    def __init__(self, opened: OpenObject, call: Call) -> None:
        super().__init__(opened, call)
        self._opened = opened

    def close(self) -> None:
        """Let go of it. Calling it again does nothing."""
        self._call(self._opened.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def received_bytes(self) -> int:
        """What came over the network for it so far; see `OpenObject.received_bytes`."""
        return self._opened.received_bytes

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The tensors by name. Raises NoTensors."""
        return self._opened.tensors

    @property
    def metadata(self) -> dict[str, str]:
        """The free-form strings in the headers of its files. Raises NoTensors."""
        return self._opened.metadata

    def __getitem__(self, name: str) -> BlockingTensor:
        """Return a tensor to slice: `model["w"][0:128]` reads those rows."""
        return BlockingTensor(self._opened[name], self._call)

    def __contains__(self, name: object) -> bool:
        return name in self._opened

    def __iter__(self) -> Iterator[str]:
        return iter(self._opened)

    def __len__(self) -> int:
        return len(self._opened)

    def load(
        self,
        *,
        layers: tuple[int, int] | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        rank: tuple[int, int] | None = None,
        base: Mapping[str, Any] | None = None,
        progress: ProgressCallback | bool | None = None,
    ) -> dict[str, Array]:
        """Read tensors into new arrays; see `OpenObject.load`."""
        with shown(progress, "load") as callback:
            return self._call(
                lambda: self._opened.load(
                    layers=layers,
                    include=include,
                    exclude=exclude,
                    rank=rank,
                    base=base,
                    progress=callback,
                )
            )

    def load_into(
        self,
        state: Mapping[str, Any],
        *,
        strict: bool = True,
        base: bool = False,
        progress: ProgressCallback | bool | None = None,
    ) -> list[str]:
        """Read tensors into arrays that are there; see `OpenObject.load_into`."""
        with shown(progress, "load") as callback:
            return self._call(
                lambda: self._opened.load_into(state, strict=strict, base=base, progress=callback)
            )

    def matches(self, state: Mapping[str, Any]) -> bool:
        """Say whether `state` is this checkpoint, bit by bit; see `OpenObject.matches`."""
        return self._call(lambda: self._opened.matches(state))

    @property
    def signed(self) -> SignedManifest:
        """The manifest, and who signed it. Raises NoManifest."""
        return self._opened.signed

    @property
    def manifest(self) -> Manifest:
        """What the manifest says. Raises NoManifest."""
        return self._opened.manifest

    @property
    def cid(self) -> CID:
        """The CID of the manifest. Raises NoManifest."""
        return self._opened.cid

    @property
    def signer(self) -> PeerId:
        """Who published it. Raises NoManifest."""
        return self._opened.signer

    @property
    def licence(self) -> str:
        """The licence that the manifest names. Raises NoManifest."""
        return self._opened.licence

    def is_trusted(self) -> bool:
        """Say whether the user trusts who published it; see `OpenObject.is_trusted`."""
        return self._call(self._opened.is_trusted)

    def is_approved(self, rule: Rule) -> bool:
        """Say whether enough of the approvers of `rule` approve; see `OpenObject.is_approved`."""
        return self._call(lambda: self._opened.is_approved(rule))

    def latest(self, *, rule: Rule | None = None) -> BlockingObject:
        """Open the newest version of the same name; see `OpenObject.latest`."""

        async def opening() -> OpenObject:
            return await self._opened.latest(rule=rule)

        return BlockingObject(self._call(opening), self._call)


class BlockingTensor:
    """A tensor of an opened checkpoint: `tensor[0:128]` reads those rows; see `LazyTensor`."""

    def __init__(self, tensor: LazyTensor, call: Call) -> None:
        self._tensor, self._call = tensor, call

    @property
    def info(self) -> TensorInfo:
        """What is known of it without reading it."""
        return self._tensor.info

    @property
    def dtype(self) -> str:
        """As safetensors spells it."""
        return self._tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements per axis."""
        return self._tensor.shape

    @property
    def cid(self) -> CID | None:
        """Its own identifier; None where its file was shared whole."""
        return self._tensor.cid

    def __getitem__(self, key: Any) -> Array:
        """Read `tensor[key]`: integers, slices and `...`."""
        return self.read(key)

    def read(self, key: Any = ...) -> Array:
        """Read a part of the tensor; see `LazyTensor.read`."""
        return self._call(lambda: self._tensor.read(key))

    def __repr__(self) -> str:
        return repr(self._tensor)
