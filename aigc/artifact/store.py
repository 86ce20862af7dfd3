"""Named and versioned artifacts on a local disk or an object store.

    store = Store("artifacts")                  # or s3://bucket/artifacts
    store.publish(folder)                       # -> artifacts/digits/1
    store.resolve("digits")                     # -> artifacts/digits/1, the newest version

A version exists once its manifest does, which is written last. It never changes, but for
`aigc evaluate --write`, which adds metrics to a local one, once.
"""

import errno
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec

from aigc.artifact.manifest import (
    MANIFEST,
    NAME,
    SIGNATURE_FILE,
    VERSION,
    ArtifactError,
    check_name,
    check_version,
    parse,
)
from aigc.files import expanded

SCHEMES = ("file", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
"""URI schemes that a server accepts: disks and object stores, not web servers inside its
network."""

CLAIM = "publishing"
"""Object with the time since which a version is being published."""
CLAIM_S = 600.0
"""Age in seconds at which a claim is taken for that of a dead process."""


CLIENTS = ("botocore", "aiobotocore", "aiohttp", "google", "gcsfs", "azure", "adlfs", "urllib3")
"""Client packages of object stores; their errors are no OSError."""
REFUSALS = (
    (
        ("CredentialError", "CredentialsError"),
        "refuses",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    ),
    (("PermissionError",), "refuses", "check the keys and what they may do"),
    (
        ("FileNotFoundError", "NoSuchBucket"),
        "cannot be used",
        "check the bucket's name, or create it",
    ),
    (
        ("Connect", "Timeout", "Endpoint"),
        "does not answer",
        "check AWS_ENDPOINT_URL and the network, or try again",
    ),
)
"""By words in the name of an error: a description of the refusal, and the remedy."""
LOCAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Numbers of OSErrors that are of the local disk, not of a store."""


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Convert errors of object store clients to one OSError whose message contains `uri`.

    An OSError keeps its class, so that callers can still catch FileNotFoundError. Errors of the
    local disk, and those that name the URI already, are not changed.
    """
    try:
        yield
    except Exception as error:
        foreign = type(error).__module__.partition(".")[0] in CLIENTS
        if "://" not in uri or uri in str(error) or not (foreign or _is_from_store(error)):
            raise
        raise _refusal(uri, error, OSError if foreign else type(error)) from error


def _is_from_store(error: Exception) -> bool:
    return isinstance(error, OSError) and error.filename is None and error.errno not in LOCAL


def _refusal(uri: str, error: Exception, kind: type[Exception]) -> Exception:
    said = getattr(error, "strerror", None) or str(error)
    said = " ".join(said.split()).rstrip(".") or "no answer in time"
    names = [each.__name__ for each in type(error).__mro__]
    for words, verb, cure in REFUSALS:
        if any(word in name for name in names for word in words):
            if not uri.startswith("s3"):
                cure = cure.replace("AWS_ENDPOINT_URL", "the address")
            text = f"{uri} {verb}: {said}; {cure}"
            break
    else:
        text = f"{uri} cannot be used: {said}"
    try:
        return kind(text)
    except TypeError:  # of a client, and wants other arguments
        return OSError(text)


def version_order(version: str) -> tuple[int, ...]:
    """Sort key of versions: "10" after "9" and "1.2"."""
    return tuple(int(part) for part in version.split("."))


def check_location(uri: str) -> None:
    """Raise ArtifactError unless `uri` is a path or a plain URI of an object store.

    fsspec takes chains (`reference::s3://...`, `simplecache::http://...`) and data in the URI
    itself: with any of those a server could be made to send requests to other servers.
    """
    scheme, there, _ = uri.partition("://")
    chain = "::" in uri or uri.startswith("data:")
    if chain or (there and scheme not in SCHEMES):
        raise ArtifactError(
            "artifact must be a folder, s3://, gs:// or az://, and no chain of several, got"
            f" {uri[:200]!r}"
        )


def filesystem(uri: str) -> tuple[Any, str]:
    """The file system of a URI or path, and the path in it.

    Raises ArtifactError for an unknown scheme, ImportError if its package is missing.
    """
    with store_errors(uri):
        try:
            return fsspec.core.url_to_fs(uri)  # type: ignore[no-any-return]
        except ValueError as error:
            raise ArtifactError(
                f"{uri[:200]} cannot be opened: {error}; give a folder, s3://, gs:// or az://"
            ) from error


class Store:
    """Artifacts below one folder or object-store prefix (any fsspec URI)."""

    def __init__(self, uri: str | Path) -> None:
        self.uri = expanded(str(uri)).rstrip("/") or "/"
        self._fs: Any
        self._fs, self._root = filesystem(self.uri)

    def names(self) -> list[str]:
        """Names that have at least one complete version, sorted."""
        with store_errors(self.uri):
            return [name for name in self._folders(self._root) if self.versions(name)]

    def versions(self, name: str) -> list[str]:
        """Complete versions of `name`, oldest first."""
        if not NAME.fullmatch(name):
            return []
        folder = f"{self._root}/{name}"
        with store_errors(self.uri):
            versions = [v for v in self._folders(folder) if VERSION.fullmatch(v)]
            complete = [v for v in versions if self._fs.isfile(f"{folder}/{v}/{MANIFEST}")]
        return sorted(complete, key=version_order)

    def resolve(self, reference: str) -> str:
        """URI of `name@version`, or of the newest version for `name` alone."""
        name, _, version = reference.partition("@")
        check_name(name)
        versions = self.versions(name)
        if not versions:
            known = ", ".join(self.names()) or "none"
            raise ArtifactError(f"no artifact {name!r} in {self.uri}; there are: {known}")
        if version and version not in versions:
            raise ArtifactError(
                f"artifact {name!r} in {self.uri} has no version {version!r},"
                f" it has: {', '.join(versions)}"
            )
        return f"{self.uri}/{name}/{version or versions[-1]}"

    def next_version(self, name: str) -> str:
        """The first number of the newest version plus one; "1" for a new name."""
        versions = self.versions(name)
        return str(version_order(versions[-1])[0] + 1) if versions else "1"

    def check_free(self, name: str, version: str) -> None:
        """Raise ArtifactError if `name@version` is malformed or published already."""
        check_name(name)
        check_version(version)
        if version in self.versions(name):
            raise ArtifactError(
                f"{name}@{version} exists already in {self.uri} and versions never change;"
                f" the next free one is {self.next_version(name)}"
            )

    def publish(self, folder: Path) -> str:
        """Copy a sealed folder in, the manifest last. Returns its URI.

        Raises ArtifactError if that version exists or the folder is not sealed.
        """
        try:
            manifest = parse((folder / MANIFEST).read_bytes())
        except FileNotFoundError as error:
            raise ArtifactError(f"{folder} holds no {MANIFEST}; export writes it") from error
        signature = (SIGNATURE_FILE,) if (folder / SIGNATURE_FILE).exists() else ()
        self.check_free(manifest.name, manifest.version)
        target = f"{self._root}/{manifest.name}/{manifest.version}"
        if self._fs.protocol == "file" or "file" in self._fs.protocol:
            self._publish_local(folder, Path(target))
        else:
            with store_errors(self.uri):
                self._publish_remote(folder, target, (*manifest.files, *signature))
        return f"{self.uri}/{manifest.id.replace('@', '/')}"

    def _publish_local(self, folder: Path, target: Path) -> None:
        """Copy beside the target and rename: whoever comes second finds the version taken."""
        try:
            self._publish_copy(folder, target)
        except OSError as error:
            if str(target.parent) not in str(error.filename or ""):
                raise
            raise OSError(error.errno, error.strerror, self.uri) from error

    def _publish_copy(self, folder: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".publish-", dir=target.parent) as temporary:
            copy = Path(temporary) / "copy"
            try:
                shutil.copytree(folder, copy)
            except shutil.Error as error:  # a list of (from, to, reason)
                _, _, reason = error.args[0][0]
                told = str(reason).partition(": ")[0]
                raise OSError(f"{self.uri} cannot be written: {told}") from error
            copy.chmod(0o755)  # a temporary folder is private, a version is for everybody to read
            if target.exists() and not (target / MANIFEST).exists():
                shutil.rmtree(target)  # left behind by a copy that never got its manifest
            try:
                copy.rename(target)
            except OSError as error:
                raise ArtifactError(f"{target} exists already and versions never change") from error

    def _publish_remote(self, folder: Path, target: str, files: tuple[str, ...]) -> None:
        """Claim the version, upload, and write the manifest last, only if there is none."""
        self._make_folder(target)
        claim = f"{target}/{CLAIM}"
        try:
            self._fs.pipe_file(claim, str(time.time()).encode(), mode="create")
        except FileExistsError:
            age = time.time() - float(self._fs.cat_file(claim))
            if age < CLAIM_S:
                raise ArtifactError(
                    f"{target} is being published by another process; if that has died, try again"
                    f" in {CLAIM_S - age:.0f} s"
                ) from None
        try:
            for name in files:
                self._make_folder(f"{target}/{name}".rpartition("/")[0])
                self._fs.pipe_file(f"{target}/{name}", (folder / name).read_bytes())
            data = (folder / MANIFEST).read_bytes()
            self._fs.pipe_file(f"{target}/{MANIFEST}", data, mode="create")
        except FileExistsError as error:
            raise ArtifactError(f"{target} exists already and versions never change") from error
        finally:
            with suppress(Exception):  # a claim that stays expires
                self._fs.rm_file(claim)

    def _make_folder(self, path: str) -> None:
        """Create a local folder; an object store would create a bucket of a mistyped name."""
        protocols = (
            (self._fs.protocol,) if isinstance(self._fs.protocol, str) else self._fs.protocol
        )
        if not set(protocols) & set(SCHEMES):
            self._fs.makedirs(path, exist_ok=True)

    def _folders(self, path: str) -> list[str]:
        try:
            entries = self._fs.ls(path, detail=True, refresh=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        # A link to a folder is neither a file nor a folder for fsspec, and is one for us.
        return sorted(
            entry["name"].rstrip("/").rpartition("/")[2]
            for entry in entries
            if entry["type"] == "directory"
            or (entry["type"] != "file" and self._fs.isdir(entry["name"]))
        )


def locate(reference: str | Path) -> str:
    """The URI of one artifact folder.

    Takes the folder itself (`artifacts/digits/3`), a name in a store (`artifacts/digits`, the
    newest version) or a version of one (`artifacts/digits@3`).
    """
    uri = expanded(str(reference)).rstrip("/")
    fs, path = filesystem(uri)
    with store_errors(uri):
        if fs.isfile(f"{path}/{MANIFEST}"):  # the folder itself, whatever its name looks like
            return uri
    parent, _, last = uri.rpartition("/")
    if parent.endswith(":/"):  # memory://digits: the store is the root
        parent += "/"
    store = Store(parent or ".")
    # "3" is the name of an artifact if there is one; else a folder of that version was meant.
    if NAME.fullmatch(last.partition("@")[0]) and (
        not VERSION.fullmatch(last) or store.versions(last)
    ):
        return store.resolve(last)
    raise ArtifactError(f"{uri} is no artifact: it holds no {MANIFEST}")
