"""What `node.open` gives: an object to read parts of, and the tensors in it where it has some.

async with node.open(ref) as model:   # open as long as the block
model = await node.open(ref)          # open until `await model.aclose()`, or the node's end
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from lattica._report import reporter
from lattica._tensor_files import write_tensors
from lattica.errors import InvalidInput, LatticaError
from lattica.models import DeltaWays, MalformedCheckpoint, Name, SafetensorsError, open_tensors
from lattica.results import Phase

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Generator,
        Iterator,
        Mapping,
        Sequence,
    )
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path
    from types import TracebackType

    from lattica._model_calls import ModelCalls
    from lattica._tensor_files import Choice
    from lattica.cid import CID
    from lattica.codec import Array
    from lattica.content import ObjectReader, Selected, Selection, TreeFile
    from lattica.identity import PeerId
    from lattica.models import (
        DeltaLink,
        LazyTensor,
        Manifest,
        Portion,
        Rule,
        SignedManifest,
        TensorInfo,
        TensorReader,
    )
    from lattica.results import ProgressCallback, TensorsFetched
    from lattica.transport import Multiaddr

SUFFIX = ".safetensors"


class NoTensors(InvalidInput):
    """The object is no checkpoint, so it has no tensors to read."""

    code = "no-tensors"
    hint = (
        "read its bytes with `read`; tensors are read from safetensors files, and folders of them"
    )


class NoManifest(InvalidInput):
    """The object was opened by itself, so nothing is said of it."""

    code = "no-manifest"
    hint = "open it by the ticket or CID of its manifest, or by its name"


class OpenObject:
    """An object that is open: parts of its bytes, its files, its tensors.

    Whatever is read is verified against the root, and nothing else is fetched.
    """

    def __init__(self, reader: ObjectReader, tensors: TensorReader | LatticaError) -> None:
        self._reader, self._tensors = reader, tensors
        self._signed: SignedManifest | None = None
        self._node: ModelCalls | None = None
        self._peers: Sequence[Multiaddr | str] = ()
        self._ways: DeltaWays | None = None
        self._done = trio.Event()

    def comes_by(
        self,
        links: Sequence[DeltaLink],
        open_delta: Callable[[CID], AbstractAsyncContextManager[ObjectReader]],
    ) -> None:
        """Note which deltas lead to it, and how one is opened."""
        self._ways = DeltaWays(links, open_delta)

    def belongs_to(
        self, signed: SignedManifest, node: ModelCalls, peers: Sequence[Multiaddr | str]
    ) -> None:
        """Note that it was opened by a manifest, through a node."""
        self._signed, self._node, self._peers = signed, node, peers

    async def aclose(self) -> None:
        """Let go of it: connections that only this needed end. Calling it again does nothing."""
        self._done.set()
        await trio.lowlevel.checkpoint()

    # bytes and files, as `lattica.content.ObjectReader` has them

    @property
    def root(self) -> CID:
        """The CID of what was opened."""
        return self._reader.root

    @property
    def path(self) -> str:
        """Where that is in the object; "" when it is the object."""
        return self._reader.path

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return self._reader.is_directory

    @property
    def size(self) -> int:
        """Bytes of the file. Raises InvalidInput for a directory."""
        return self._reader.size

    @property
    def received_bytes(self) -> int:
        """What came over the network for it so far: content, index, and deltas that lead to it."""
        by_deltas = 0 if self._ways is None else self._ways.received_bytes
        return self._reader.received_bytes + by_deltas

    async def read(
        self, offset: int, length: int, *, out: bytearray | memoryview | None = None
    ) -> bytes | memoryview:
        """Return `length` bytes from `offset` of the file; see `ObjectReader.read`."""
        if out is None:
            return await self._reader.read(offset, length)
        return await self._reader.read(offset, length, out=out)

    def stream(
        self, offset: int = 0, length: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[memoryview]]:
        """Read a range in pieces as they come; see `ObjectReader.stream`."""
        return self._reader.stream(offset, length)

    async def files(self) -> list[TreeFile]:
        """Return every file at and below this path; see `ObjectReader.files`."""
        return await self._reader.files()

    async def select(self, selection: Selection) -> Selected:
        """Return what of a directory `selection` takes; see `content.ObjectReader.select`."""
        return await self._reader.select(selection)

    async def open(self, path: str) -> ObjectReader:
        """Return a reader of what is at `path` below; see `ObjectReader.open`."""
        return await self._reader.open(path)

    # tensors

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The tensors by name, in the order of their data. Raises NoTensors."""
        return self._model.tensors

    @property
    def metadata(self) -> dict[str, str]:
        """The free-form strings in the headers of its files. Raises NoTensors."""
        return self._model.metadata

    def __getitem__(self, name: str) -> LazyTensor:
        """Return a tensor to slice: `await model["w"][0:128]` reads those rows."""
        return self._model[name]

    def __contains__(self, name: object) -> bool:
        return name in self._model

    def __iter__(self) -> Iterator[str]:
        return iter(self._model)

    def __len__(self) -> int:
        return len(self._model)

    async def load(
        self,
        *,
        layers: tuple[int, int] | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        rank: tuple[int, int] | None = None,
        base: Mapping[str, Any] | None = None,
        progress: ProgressCallback | None = None,
    ) -> dict[str, Array]:
        """Read tensors, all or those that are selected, into new arrays.

        Args:
            layers: (a, b): those of layers a to b - 1, by the usual names (`layers.N.`, `h.N.`, …).
            include: patterns, one of which a name must match.
            exclude: patterns, none of which a name may match.
            rank: (r, n): of each tensor, part r of n along its first axis; scalars are rank 0's.
            base: tensors of another version. What has not changed is taken from there; for what
                has, only the difference travels, where there are deltas from that version.
            progress: called with `Progress` a few times a second; what its `received_bytes` lack
                was saved.

        Raises:
            NoTensors: the object is no checkpoint.
            InvalidInput: a selection that is none.
        """
        model = self._model
        chosen = model.select(layers=layers, include=include, exclude=exclude, rank=rank)
        return await model.load(
            layers=layers,
            include=include,
            exclude=exclude,
            rank=rank,
            base=base,
            deltas=self._ways,
            progress=self._counter(progress, chosen),
        )

    async def load_into(
        self,
        state: Mapping[str, Any],
        *,
        strict: bool = True,
        base: bool = False,
        progress: ProgressCallback | None = None,
    ) -> list[str]:
        """Read the tensors that `state` names into its arrays (numpy or torch), in place.

        No second copy of the model is made. With `strict`, both must have the same names. With
        `base`, the arrays hold another version, and what travels is the difference, as for `load`;
        beside them, one tensor is in memory. Returns the names that were read. Raises as `load`;
        InvalidInput for an array that does not fit.
        """
        model = self._model
        chosen = [one for one in model.select() if one.tensor.name in state]
        return await model.load_into(
            state,
            strict=strict,
            base=base,
            deltas=self._ways,
            progress=self._counter(progress, chosen),
        )

    async def write(
        self,
        destination: Path,
        choice: Choice,
        *,
        overwrite: bool = False,
        progress: ProgressCallback | None = None,
    ) -> TensorsFetched:
        """Write chosen tensors into a safetensors file; see `AsyncNode.get_tensors`."""
        counter = None if progress is None else reporter(progress, Phase.FETCH, 0)
        return await write_tensors(
            self._model, choice, destination, overwrite=overwrite, progress=counter
        )

    async def matches(self, state: Mapping[str, Any]) -> bool:
        """Say whether `state` is this checkpoint, bit by bit. No tensor is fetched for it."""
        return await self._model.matches(state)

    # the manifest that it was opened by

    @property
    def signed(self) -> SignedManifest:
        """The manifest, and who signed it. Raises NoManifest."""
        if self._signed is None:
            raise NoManifest(f"{self.root} was opened by itself, not by a manifest", cid=self.root)
        return self._signed

    @property
    def manifest(self) -> Manifest:
        """What the manifest says. Raises NoManifest."""
        return self.signed.manifest

    @property
    def cid(self) -> CID:
        """The CID of the manifest. Raises NoManifest."""
        return self.signed.cid

    @property
    def signer(self) -> PeerId:
        """Who published it. Raises NoManifest."""
        return self.signed.signer

    @property
    def licence(self) -> str:
        """The licence that the manifest names. Raises NoManifest."""
        return self.manifest.licence

    async def is_trusted(self) -> bool:
        """Say whether the user trusts who published it. Raises NoManifest."""
        return self.signer in await self._origin.trusted()

    async def is_approved(self, rule: Rule) -> bool:
        """Say whether enough of the approvers of `rule` approve of it. Raises NoManifest."""
        return await self._origin.is_approved(self.signed, rule)

    def latest(self, *, rule: Rule | None = None) -> Opening:
        """Open the newest version of the same name; with a rule, the newest that is approved.

        Raises:
            NoManifest: this was not opened by a manifest.
            NameNotFound, NotApproved: as `node.latest`.
        """
        return self._origin.open_latest(
            Name(self.signer, self.manifest.name), rule=rule, peers=self._peers
        )

    def _counter(
        self, progress: ProgressCallback | None, chosen: Sequence[Portion]
    ) -> Callable[[int], object] | None:
        if progress is None:
            return None
        before = self.received_bytes
        total = sum(one.length for one in chosen)
        return reporter(progress, Phase.FETCH, total, lambda: self.received_bytes - before)

    @property
    def _origin(self) -> ModelCalls:
        if self._node is None:
            raise NoManifest(f"{self.root} was opened by itself, not by a manifest", cid=self.root)
        return self._node

    @property
    def _model(self) -> TensorReader:
        if isinstance(self._tensors, LatticaError):
            raise NoTensors(str(self._tensors)) from self._tensors
        return self._tensors


class Opening:
    """An object that is being opened: `await` it, or use it with `async with`."""

    def __init__(
        self,
        manager: AbstractAsyncContextManager[OpenObject],
        keep: Callable[[AbstractAsyncContextManager[OpenObject]], Awaitable[OpenObject]],
    ) -> None:
        self._manager, self._keep = manager, keep

    def __await__(self) -> Generator[Any, Any, OpenObject]:
        return self._keep(self._manager).__await__()

    async def __aenter__(self) -> OpenObject:
        return await self._manager.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._manager.__aexit__(kind, error, traceback)


async def look_inside(reader: ObjectReader, name: str | None) -> OpenObject:
    """Return an open object with its tensors, if it is a checkpoint.

    Args:
        reader: of it.
        name: of the file, where it is known: no other than `*.safetensors` is looked into.
    """
    if not reader.is_directory and name is not None and not name.endswith(SUFFIX):
        return OpenObject(reader, MalformedCheckpoint(f"{name} is no safetensors file"))
    try:
        return OpenObject(reader, await open_tensors(reader))
    except SafetensorsError as error:
        return OpenObject(reader, error)
