"""`aigc k8s check` as it is called."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from k8s.check.command import command
from k8s.check.rules import rules
from tests.k8s.check import mutation  # noqa: F401  Ray's schema, imported without its warnings
from tests.yaml_bombs import BOMBS

HERE = Path(__file__).parent
WHOLE = str(HERE / "whole.yaml")
JOB = str(HERE / "foreign" / "raycluster.yaml")


def test_command_exits_0_without_findings(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["check", WHOLE]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "18 objects, 0 findings\n"


def test_command_exits_1_and_prints_findings(capsys: pytest.CaptureFixture[str]) -> None:
    skip = ["--skip", "clusters", "images", "placement", "ports", "selectors", "references/claims"]
    assert command(["check", JOB, *skip]) == 1
    said = capsys.readouterr()
    path = "spec.workerGroupSpecs[0].template.spec.containers[0].envFrom[0].secretRef.name"
    assert said.out == (
        f"RayCluster default/raycluster-complete: {path}: no Secret 'object-store' in namespace"
        " default; there is none. Add it, or declare it: --external Secret/object-store"
        " [references/secrets]\n"
    )
    assert said.err == "4 objects, 1 findings\n"
    assert command(["check", JOB, *skip, "--external", "Secret/object-store", "Pod/a=b"]) == 0


def test_json_option_prints_a_finding_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["check", JOB, "--json"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 10
    assert set(lines[0]) == {"kind", "namespace", "name", "path", "message", "rule"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["check", "nowhere"], "aigc k8s check: nowhere: No such file or directory"),
        (["check", WHOLE, "--skip", "imges"], "aigc k8s check: unknown rule 'imges'"),
        (["check", WHOLE, "--external", "x"], "--external must be Kind/name, got 'x'"),
        (["chekc"], "aigc k8s: unknown action 'chekc'; there are: check, init"),
    ],
)
def test_command_exits_2_on_unusable_input(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(arguments) == 2
    said = capsys.readouterr()
    assert reason in said.err
    assert said.out == ""


def run(*arguments: str, given: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """The command as a process that has 2 GiB of address space, and far more time than it needs."""
    code = "import sys; from k8s.check.command import command; sys.exit(command(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, "check", *arguments, "--skip", "serve_config"],
        env=os.environ | {"PYTHONPATH": str(HERE.parents[2])},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30)),
        input=given or b"",
        capture_output=True,
        timeout=240,
    )


MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n"
BROKEN = {
    "cycle": (MAP + "data: &d {self: *d}\n", "line 4: *d stands within &d"),
    "laughs": (BOMBS["billion laughs"], "stand for more than 100,000 values"),
    "deep JSON": (BOMBS["deep JSON"], "is nested more than 100 deep"),
    "deep YAML": (MAP + BOMBS["deep YAML"], "line 4 is nested more than 100 deep"),
    "deep in a config": (
        "apiVersion: ray.io/v1\nkind: RayService\nmetadata: {name: a}\nspec:\n  serveConfigV2: |\n"
        f"    a: {'[' * 200_000}\n  rayClusterConfig: {{}}\n",
        "",
    ),
    "huge": (BOMBS["more than is read"], "more than 16 MiB"),
    "latin": (MAP.encode() + b"data: {a: Gr\xf6\xdfe}\n", "byte 0xf6 in line 4 is not UTF-8"),
    "tabs": ("kind: Pod\n\tmetadata: {}\n", "a tab indents it"),
    "twice": (MAP + "kind: Pod\n", "key 'kind' stands twice"),
    "template": ("kind: Pod\nmetadata: {{ .Values.x }}\n", "if this is a template, render it"),
    "null": (b"kind: Pod\nmetadata: \0\n", "no YAML"),
    "path": ('kind: Pod\nmetadata: {name: "C:\\data"}\n', "unknown escape character in line 2"),
}


@pytest.mark.process
@pytest.mark.parametrize("name", BROKEN)
def test_unreadable_files_are_named_and_others_checked(name: str, tmp_path: Path) -> None:
    """Findings of the rest are shown, and the status says that not all was checked."""
    text, reason = BROKEN[name]
    file = tmp_path / "broken.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    done = run(str(file), JOB)
    said = done.stderr.decode()
    assert "Traceback" not in said
    assert done.stdout.count(b"RayCluster default/raycluster-complete: ") == 8
    if not reason:  # a finding of a rule that is left out here
        assert done.returncode == 1
        assert said.startswith("5 objects, ")
        return
    assert done.returncode == 2
    assert f"aigc k8s check: {file}: " in said
    assert reason in said
    assert said.endswith(
        "4 objects, 10 findings, 1 not read: what is there may be found missing elsewhere\n"
    )


@pytest.mark.process
def test_folders_in_common_layouts_are_read(tmp_path: Path) -> None:
    """Exit status 0, from files and from stdin."""
    service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}}\n"
    pod = "apiVersion: v1\nkind: Pod\nmetadata: {generateName: web-, labels: {app: web}}\n"
    items = {"metadata": {"name": "a"}, "spec": {}}
    readable = {
        "generated.yaml": (pod + "---\n" + pod + "---\n" + service).encode(),
        "windows.yaml": ("---\n" + pod + "\n---\n" + service)
        .replace("\n", "\r\n")
        .encode("utf-16"),
        "marked.yaml": (pod + "---\n\ufeff---\n# nothing\n---\n" + service).encode("utf-8-sig"),
        "list.yaml": (
            f"apiVersion: v1\nkind: List\nitems:\n- {{{flow(pod)}}}\n- {{{flow(service)}}}\n"
        ).encode(),
        "services.json": json.dumps(
            {"apiVersion": "v1", "kind": "ServiceList", "metadata": {}, "items": [items]}
        ).encode(),
        "lists.json": json.dumps(
            {"apiVersion": "ray.io/v1", "kind": "RayServiceList", "items": []}
        ).encode()
        + b"\n"
        + json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}).encode(),
    }
    for name, data in readable.items():
        (tmp_path / name).write_bytes(data)
        for done in (run(str(tmp_path / name)), run("-", given=data)):
            assert (done.returncode, done.stdout) == (0, b""), (name, done.stderr)


def flow(text: str) -> str:
    """A block mapping of one line each, inside of braces."""
    return text.strip().replace("\n", ", ")


@pytest.mark.process
def test_large_input_is_checked_in_linear_time(tmp_path: Path) -> None:
    """Every object names another and is selected by one: what compares all with all takes hours."""
    one = """---
apiVersion: v1
kind: ConfigMap
metadata: {{name: c{0}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: p{0}, labels: {{app: p{0}}}}}
spec: {{containers: [{{name: c, image: "x:1", envFrom: [{{configMapRef: {{name: {1}{0}}}}}]}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: s{0}}}
spec: {{selector: {{app: {2}{0}}}}}
"""
    for name, kept in (("right", ("c", "p")), ("wrong", ("d", "q"))):
        file = tmp_path / f"{name}.yaml"
        file.write_text("".join(one.format(number, *kept) for number in range(2000)))
        done = run(str(file))
        assert done.stderr.startswith(b"6000 objects, "), done.stderr[-300:]
        assert done.returncode == (0 if name == "right" else 1)


@pytest.mark.process
def test_failing_rule_is_named_and_others_run(tmp_path: Path) -> None:
    code = (
        "import sys; from k8s.check.rules import images; from k8s.check.command import command\n"
        "def broken(manifests):\n    raise KeyError('x')\n    yield\n"
        "images.RULES = (broken, *images.RULES)\nsys.exit(command(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "check", JOB, "--skip", "serve_config"],
        env=os.environ | {"PYTHONPATH": str(HERE.parents[2])},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 2
    assert "rule images/broken failed on these manifests, which is a mistake of it: KeyError" in (
        done.stderr
    )
    assert len(done.stdout.splitlines()) == 10


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_usage_names_both_actions(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command(arguments) == 0
    out = capsys.readouterr().out
    assert "aigc k8s check" in out
    assert "aigc k8s init" in out


def test_help_lists_every_rule(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        command(["check", "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    for name in rules():
        assert f"  {name} " in shown
    assert "aigc/external" in shown


@pytest.mark.process
def test_rules_that_need_ray_are_skipped_visibly_without_it(tmp_path: Path) -> None:
    line = "raise ModuleNotFoundError('no module ray', name='ray')\n"
    (tmp_path / "ray.py").write_text(line)
    code = "import sys; from k8s.check.command import command; sys.exit(command(sys.argv[1:]))"
    path = os.pathsep.join([str(tmp_path), str(HERE.parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", code, "check", WHOLE],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for rule in ("schema", "runtime_env"):
        said = f"aigc k8s check: rule serve_config/{rule} was skipped: ray is not installed; pip"
        assert said in done.stderr
    assert "serve_config/bounds" not in done.stderr
