"""Pods of the manifests on this machine: Linux namespaces in place of a container runtime.

    with Network() as network, network.pod(objects, template) as pod:
        pod.start("ray-head", ["ray", "start", "--head", "--block"])

A container has the user, the environment, the volumes and the read-only root that its manifest
says, and ports of its own; this machine's files are its image. Only root may make namespaces.
"""

import base64
import ctypes
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from tests.k8s.rendered import K8S, ROOT, Object, told

NEW_NETWORK = 0x40000000
"""CLONE_NEWNET of Linux."""
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""No container outlives tests that are killed."""
WITHOUT_TRAINING = ROOT / "tests" / "without_training"
"""The image of serving lacks what this hides."""
PROGRAMS = ("ip", "unshare", "nsenter", "setpriv", "wget")


class Network:
    """A network of pods. Who is inside, this thread with all that it starts, reaches them."""

    def __init__(self) -> None:
        missing = [name for name in PROGRAMS if shutil.which(name) is None]
        if missing:
            pytest.skip(f"not on this machine: {', '.join(missing)}")
        if os.geteuid():
            pytest.skip("only root may make namespaces")
        self.names: dict[str, str] = {}
        """Addresses of Services by name, for pods that are made later."""
        self._pods = 0

    def __enter__(self) -> Self:
        self._outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(NEW_NETWORK):
            pytest.skip(f"no namespaces here: {os.strerror(ctypes.get_errno())}")
        _sh("ip link set lo up; ip link add pods type bridge")
        _sh("ip addr add 10.9.0.1/16 dev pods; ip link set pods up")
        return self

    def __exit__(self, *_: object) -> None:
        ctypes.CDLL(None).setns(self._outside, NEW_NETWORK)
        os.close(self._outside)

    def pod(
        self,
        objects: list[Object],
        template: Mapping[str, Any],
        *,
        claims: Mapping[str, Path] | None = None,
        secrets: Mapping[str, Mapping[str, str]] | None = None,
    ) -> "Pod":
        """A pod made of a template. `claims`: folders that stand in for storage; `secrets`: files
        of Secrets by name, in place of those in the manifests."""
        self._pods += 1
        return Pod(self._pods, self.names, objects, template, claims or {}, secrets or {})


def _sh(script: str) -> None:
    subprocess.run(["sh", "-euc", script], check=True)


class Pod:
    """Containers that share an address and volumes."""

    def __init__(
        self,
        number: int,
        names: Mapping[str, str],
        objects: list[Object],
        template: Mapping[str, Any],
        claims: Mapping[str, Path],
        secrets: Mapping[str, Mapping[str, str]],
    ) -> None:
        self.spec: Object = template["spec"]
        self.ip = f"10.9.1.{number}"
        self.name = f"pod-{number}"
        self._objects, self._claims, self._secrets = objects, claims, secrets
        self._folder = Path(tempfile.mkdtemp(prefix="aigc-"))
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._volumes = {v["name"]: self._volume(v) for v in self.spec["volumes"]}
        hosts = {"localhost": "127.0.0.1", self.name: self.ip, **names}
        (self._folder / "hosts").write_text("".join(f"{ip} {n}\n" for n, ip in hosts.items()))
        self._folder.chmod(0o755)
        (self._folder / "hosts").chmod(0o644)
        # Holds the namespaces that containers share; its veth pair dies with it.
        self._pause = subprocess.Popen(
            [
                *(*DIES_WITH_US, "unshare", "--net", "--uts", "--ipc"),
                *("sh", "-c", f"hostname {self.name}; echo; exec sleep infinity"),
            ],
            stdout=subprocess.PIPE,
        )
        assert self._pause.stdout is not None
        self._pause.stdout.readline()
        _sh(
            f"ip link add {self.name} type veth peer name eth0 netns {self._pause.pid};"
            f"ip link set {self.name} master pods up;"
            f"nsenter --target {self._pause.pid} --net sh -euc '"
            f"ip link set lo up; ip addr add {self.ip}/16 dev eth0; ip link set eth0 up;"
            "ip route add default via 10.9.0.1'"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as every:
            for process in [*self._started.values(), self._pause]:
                every.callback(_end, process)
        if self._pause.stdout is not None:
            self._pause.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def container(self, name: str) -> Object:
        """The manifest's entry of a container."""
        every = [*self.spec["containers"], *self.spec.get("initContainers", ())]
        (found,) = (one for one in every if one["name"] == name)
        return dict(found)

    def start(
        self, name: str, command: Sequence[str] = (), **environment: str
    ) -> "subprocess.Popen[bytes]":
        """Start a container; `command` in place of its own, `environment` beside its own."""
        one = self.container(name)
        words = [*(command or [*one["command"], *one.get("args", ())])]
        variables = image_environment(one) | told(self._objects, one) | environment
        script = self._folder / f"{name}.sh"
        script.write_text(self._script(one, words, variables))
        command = [
            *(*DIES_WITH_US, "nsenter", "--target", str(self._pause.pid)),
            *("--net", "--uts", "--ipc"),
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", str(script)),
        ]
        with self.log(name).open("ab") as log:
            # As runc does: what is at the other end of a container's stderr is its user's.
            os.fchown(log.fileno(), self.spec["securityContext"].get("runAsUser", 0), -1)
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self._started[name] = process
        return process

    def volume(self, name: str) -> Path:
        """The folder of this machine that is a volume."""
        folder = self._volumes[name]
        assert isinstance(folder, Path), f"{name} is in memory"
        return folder

    def log(self, name: str) -> Path:
        """File with the output of a container."""
        return self._folder / f"{name}.log"

    def init(self) -> None:
        """Run the containers that come before the others, in order; sidecars go on running."""
        for one in self.spec.get("initContainers", ()):
            process = self.start(one["name"])
            if one.get("restartPolicy") != "Always":
                assert process.wait(60) == 0, self.log(one["name"]).read_text()

    def execute(self, name: str, command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        """Run a command in a running container, as probes and preStop hooks are."""
        init = self.init_of(name)
        variables = [f"{k}={v}" for k, v in image_environment(self.container(name)).items()]
        return subprocess.run(
            [
                *("nsenter", "--target", str(init), "--mount", "--net", "--uts", "--ipc", "--pid"),
                *(f"--root=/proc/{init}/root", f"--wd=/proc/{init}/root"),
                *(*self._as_user(self.container(name)), "env", "-i", *variables, *command),
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )

    def init_of(self, name: str) -> int:
        """The container's first process, by this machine's number."""
        unshare = self._started[name]
        while unshare.poll() is None:
            for child in psutil.Process(unshare.pid).children():
                return int(child.pid)
            time.sleep(0.01)
        raise RuntimeError(f"{name} has ended: {self.log(name).read_text()[-3000:]}")

    def runs(self, name: str) -> bool:
        """True while a container has not ended."""
        return self._started[name].poll() is None

    def kill(self, name: str) -> None:
        """End a container as a lack of memory does."""
        os.kill(self.init_of(name), signal.SIGKILL)
        self._started[name].wait(10)

    def stop(self, name: str) -> float:
        """End a container as a kubelet does; returns the seconds that it took after preStop.

        Raises TimeoutError where it had to be killed at the end of the grace period.
        """
        begun = time.monotonic()
        hook = self.container(name).get("lifecycle", {}).get("preStop")
        if hook is not None:
            self.execute(name, hook["exec"]["command"])
        told_at = time.monotonic()
        os.kill(self.init_of(name), signal.SIGTERM)
        left = self.spec["terminationGracePeriodSeconds"] - (told_at - begun)
        try:
            self._started[name].wait(left)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{name} did not end within its grace period") from None
        return time.monotonic() - told_at

    def _script(
        self, one: Mapping[str, Any], words: Sequence[str], variables: Mapping[str, str]
    ) -> str:
        """Makes a container's root, becomes its user and then its process."""
        root = "/mnt/root"
        here = [ROOT, Path(sys.prefix).resolve(), Path(sys.base_prefix)]
        lines = [
            "set -eu",
            "mount -t tmpfs tmpfs /mnt",
            f"mkdir /mnt/upper /mnt/work {root}",
            f"mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work {root}",
            f"mount -t proc proc {root}/proc",
            f"mount --rbind /dev {root}/dev",
            f"mount --rbind /sys {root}/sys",
            f"mount --bind {self._folder}/hosts {root}/etc/hosts",
        ]
        for mount in one.get("volumeMounts", ()):
            lines += self._mounted(mount, f"{root}{mount['mountPath']}")
        lines += [
            # Over the volumes, since all this may lie below /tmp. Python may live in the home of
            # root, which is closed to others.
            *(f"mkdir -p {root}{path} && mount --bind {path} {root}{path}" for path in here),
            *(f"chmod o+x {root}{parent}" for path in here for parent in path.parents),
            *(f"mount -o remount,bind,ro {root}{path}" for path in here),
            *(f"chroot {root} env PATH={path()} {line}" for line in _haproxy_of_the_image()),
        ]
        if one["securityContext"].get("readOnlyRootFilesystem"):
            lines.append(f"mount -o remount,bind,ro {root}")
        assignments = [f"{name}={value}" for name, value in variables.items()]
        lines.append("ulimit -n 65536 2>/dev/null || true")
        last = ["chroot", root, *self._as_user(one), "env", "-i", "--chdir=/tmp", *assignments]
        lines.append(f"exec {shlex.join([*last, *words])}")
        return "\n".join(lines)

    def _as_user(self, one: Mapping[str, Any]) -> list[str]:
        """Becomes the container's user, with no more rights than its manifest leaves it."""
        pod, own = self.spec["securityContext"], one["securityContext"]
        user, group = pod.get("runAsUser", 0), pod.get("runAsGroup", 0)
        command = ["setpriv", f"--reuid={user}", f"--regid={group}", f"--groups={pod['fsGroup']}"]
        if own.get("capabilities", {}).get("drop") == ["ALL"]:
            command += ["--inh-caps=-all", "--bounding-set=-all"]
        if own.get("allowPrivilegeEscalation") is False:
            command += ["--no-new-privs"]
        return command

    def _mounted(self, mount: Mapping[str, Any], at: str) -> list[str]:
        what = self._volumes[mount["name"]]
        lines = [f"mkdir -p {at}"]
        if isinstance(what, str):
            return [*lines, f"mount -t tmpfs -o mode=1777,size={what} tmpfs {at}"]
        lines.append(f"mount --bind {what} {at}")
        if mount.get("readOnly"):
            lines.append(f"mount -o remount,bind,ro {at}")
        return lines

    def _volume(self, volume: Mapping[str, Any]) -> Path | str:
        """A folder, or the size of a volume in memory."""
        if volume.get("emptyDir", {}).get("medium") == "Memory":
            return str(volume["emptyDir"]["sizeLimit"]).removesuffix("i")
        if "persistentVolumeClaim" in volume:
            return self._owned(self._claims[volume["persistentVolumeClaim"]["claimName"]])
        folder = self._folder / "volumes" / volume["name"]
        folder.mkdir(parents=True)
        if "secret" in volume:
            name = volume["secret"]["secretName"]
            for file, text in (self._secrets.get(name) or self._of_the_manifests(name)).items():
                (folder / file).write_text(text)
                (folder / file).chmod(volume["secret"]["defaultMode"])
                os.chown(folder / file, 0, self.spec["securityContext"]["fsGroup"])
        elif "configMap" in volume:
            (data,) = (
                o["data"]
                for o in self._objects
                if (o["kind"], o["metadata"]["name"]) == ("ConfigMap", volume["configMap"]["name"])
            )
            for file, text in data.items():
                (folder / file).write_text(text)
        return self._owned(folder)

    def _of_the_manifests(self, name: str) -> dict[str, str]:
        (data,) = (
            o["data"]
            for o in self._objects
            if (o["kind"], o["metadata"]["name"]) == ("Secret", name)
        )
        return {file: base64.b64decode(text).decode() for file, text in data.items()}

    def _owned(self, folder: Path) -> Path:
        """As fsGroup has it: the group may do everything, and what is new belongs to it."""
        os.chown(folder, -1, self.spec["securityContext"]["fsGroup"])
        folder.chmod(0o2775)
        return folder


def path() -> str:
    """PATH of the image."""
    return f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"


def image_environment(container: Mapping[str, Any]) -> dict[str, str]:
    """ENV of the Dockerfile, with this environment in place of the container's image."""
    (line,) = re.findall(r"^ENV (PATH=.* HOME=.*)$", _dockerfile(), re.MULTILINE)
    found = dict(word.split("=", 1) for word in line.split())
    hidden = [str(WITHOUT_TRAINING)] if container["image"].startswith("aigc-serve") else []
    return found | {"PATH": path(), "PYTHONPATH": os.pathsep.join([*hidden, str(ROOT)])}


def _haproxy_of_the_image() -> list[str]:
    """The command of the Dockerfile's last stage."""
    line = re.findall(
        r"^RUN (mkdir .* && python -m serve\.local\.haproxy .*)$", _dockerfile(), re.M
    )
    return [f"PYTHONPATH={ROOT} sh -euc {shlex.quote(line[0])}"]


def _dockerfile() -> str:
    return (K8S / "images" / "Dockerfile").read_text()


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill it; a container's other processes die with its first one."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children():
            child.kill()
    process.kill()
    process.wait(10)


def until(what: Callable[[], Any], seconds: float, name: Callable[[], str]) -> Any:
    """The first true answer of `what`; AssertionError with `name()` when there was none."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.5)
    raise AssertionError(name())
