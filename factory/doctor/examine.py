"""Examines this installation: what is installed, what works, and what to do about problems."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from factory.annotate import TOOLS
from factory.core.compiled import compiled
from factory.core.devices import usable_cores
from factory.core.registry import resolve
from factory.core.runs import is_finished
from factory.core.starters import STARTER
from factory.core.weights import SUFFIX, read_card
from factory.doctor.report import Finding, Report, State
from factory.joint import JOINT
from factory.masks import MASKS
from factory.renderers import RENDERERS
from manifests.dataset import open_dataset
from manifests.errors import UserError
from manifests.labels import SCHEMES
from manifests.ledger import LEDGER
from manifests.store import STORE, read_layout

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PACKAGE = "pathology-tile-factory"
STARTERS = {
    STARTER: (
        "depas-tissue", "exemplar-tissue", "hdgan-he", "pix2pixhd-ihc",
        "priorpath-tissue", "sharpgan-he", "stylegan2-he",
    ),
    Path(__file__).parents[2] / "segment" / "starter": ("nuclei_he",),
}  # fmt: skip
"""Folders of the weights that come with the package, and their names."""

_CPUINFO, _MEMINFO = "/proc/cpuinfo", "/proc/meminfo"
_LEAST_FREE_BYTES = 1_000_000_000
_IMPORT_TIMEOUT_S = 300


def examine(data: Path) -> Report:
    """Examines every part of the installation, and the folder of the data sets, usually ``data``."""
    findings = [
        *examine_versions(),
        *examine_imports(),
        *examine_devices(),
        examine_memory(),
        examine_disk(data),
        examine_allocator(),
        examine_compiler(),
        *(finding for folder, names in STARTERS.items() for finding in examine_weights(folder, names)),
        *examine_parts(),
        *examine_readers(),
        *examine_data(data),
    ]
    return Report(tuple(findings))


def examine_versions() -> list[Finding]:
    """Compares Python and every required library with the supported versions."""
    from packaging.specifiers import SpecifierSet

    try:
        own = metadata.metadata(PACKAGE)
    except metadata.PackageNotFoundError:
        return [Finding("versions", PACKAGE, "problem", "not installed", "Run make install.")]
    supported = SpecifierSet(own["Requires-Python"])
    python = platform.python_version()
    findings = [
        _version("python", python, supported, f"Create the environment again with Python {supported}."),
        Finding("versions", PACKAGE, "ok", own["Version"], facts={"version": own["Version"]}),
    ]
    for requirement in _requirements():
        name = requirement.name
        advice = f"Run make install, or pip install '{name}{requirement.specifier}'."
        try:
            findings.append(_version(name, metadata.version(name), requirement.specifier, advice))
        except metadata.PackageNotFoundError:
            findings.append(Finding("versions", name, "problem", f"not installed, {requirement.specifier}", advice))
    return findings


def _requirements() -> list[Requirement]:
    """Returns the libraries that the package requires on this system, without extras."""
    from packaging.requirements import Requirement

    every = (Requirement(text) for text in sorted(metadata.requires(PACKAGE) or (), key=str.lower))
    return [one for one in every if not one.marker or one.marker.evaluate({"extra": ""})]


def _version(name: str, version: str, supported: Any, advice: str) -> Finding:
    facts = {"version": version, "supported": str(supported)}
    if supported.contains(version, prereleases=True):
        return Finding("versions", name, "ok", version, facts=facts)
    return Finding("versions", name, "problem", f"expected {supported}, got {version}", advice, facts)


_TRY_IMPORTS = """
import importlib, json, sys
for module in sys.argv[1:]:
    print(json.dumps([module, None]), flush=True)
    try:
        importlib.import_module(module)
        print(json.dumps([module, ""]), flush=True)
    except Exception as error:
        print(json.dumps([module, f"{type(error).__name__}: {error}"]), flush=True)
"""


def _modules() -> dict[str, str]:
    """Returns the installed required libraries: name of the distribution -> its module."""
    modules_of: dict[str, list[str]] = {}
    for module, names in metadata.packages_distributions().items():
        for name in names:
            modules_of.setdefault(_normal(name), []).append(module)
    found = {one.name: modules_of.get(_normal(one.name), []) for one in _requirements()}

    def rank(name: str, module: str) -> tuple[bool, bool, str]:
        return module.startswith("_"), _normal(module) != _normal(name), module  # its own name first, private ones last

    return {name: min(modules, key=lambda module: rank(name, module)) for name, modules in found.items() if modules}


def _normal(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")


def examine_imports(imports: Mapping[str, str] | None = None) -> list[Finding]:
    """Imports libraries in another process, because a wrong build may end the process that loads it.

    Args:
        imports: name of the distribution -> module; default all that the package requires.
    """
    imports = _modules() if imports is None else imports
    found: dict[str, str | None] = {}
    pending = list(imports.values())
    while pending:
        result = try_imports(pending)
        found |= result
        # If the process dies, the module it died of has no answer; continue with those after it.
        pending = pending[len(result) :] if result else []
    findings = []
    for name, module in imports.items():
        reason = found.get(module)
        if reason == "":
            findings.append(Finding("imports", module, "ok", "loads"))
            continue
        text = f"does not load ({reason.splitlines()[0]})" if reason else "ends the process that loads it"
        findings.append(Finding("imports", module, "problem", text, f"Run make install, or reinstall {name}."))
    return findings


def try_imports(modules: list[str]) -> dict[str, str | None]:
    """Imports modules in a new interpreter: module -> "" if it loads, else the error; None if the process died."""
    command = [sys.executable, "-W", "ignore", "-c", _TRY_IMPORTS, *modules]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=_IMPORT_TIMEOUT_S, check=False).stdout
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode() if isinstance(error.stdout, bytes) else ""
    answers: dict[str, str | None] = {}
    for line in output.splitlines():
        if line.startswith('["'):
            module, reason = json.loads(line)
            answers[module] = reason
    return answers


def examine_devices() -> list[Finding]:
    """Describes the CPU with its bfloat16 instructions, and the accelerators that torch sees."""
    name = _field_of(_CPUINFO, "model name") or platform.processor() or "cpu"
    flags, cores = _field_of(_CPUINFO, "flags", "Features").split(), usable_cores()
    bfloat16 = sorted(flag for flag in flags if "bf16" in flag)
    facts = {"name": name, "cores": cores, "bf16": bfloat16, "avx512": "avx512f" in flags}
    text = f"{name}, {cores} cores, bf16: {', '.join(bfloat16) or 'no'}"
    return [Finding("devices", "cpu", "ok", text, facts=facts), *_accelerators()]


def _accelerators() -> list[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        return [Finding("devices", "torch", "problem", f"does not load ({error})", "Run make install.")]
    findings = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(number)
        facts = {"name": properties.name, "memory_bytes": properties.total_memory}
        text = f"{properties.name}, {properties.total_memory / 1e9:.0f} GB"
        findings.append(Finding("devices", f"cuda:{number}", "ok", text, facts=facts))
    if torch.backends.mps.is_available():
        findings.append(Finding("devices", "mps", "ok", "Apple GPU"))
    return findings or [Finding("devices", "gpu", "note", "none; everything runs on the CPU")]


def _field_of(file: str, *names: str) -> str:
    """Returns the first field of a file of /proc with one of these names; empty where there is none."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    fields = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in fields if key.strip() in names), "")


def examine_memory() -> Finding:
    """Describes the memory in total, and the free memory if the system reports it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
    available = _field_of(_MEMINFO, "MemAvailable")
    free = min(total, int(available.split()[0]) * 1024) if available else None
    text = f"{total / 1e9:.1f} GB" + (f", {free / 1e9:.1f} GB free" if free is not None else "")
    return Finding("machine", "memory", "ok", text, facts={"total_bytes": total, "free_bytes": free})


def examine_disk(data: Path) -> Finding:
    """Checks the free space for data sets, and whether their folder can be written."""
    folder = data.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    facts = {"folder": str(folder), "free_bytes": free, "writable": os.access(folder, os.W_OK)}
    text = f"{free / 1e9:.1f} GB free at {data}"
    if not folder.is_dir() or not facts["writable"]:
        return Finding("machine", "disk", "problem", f"{folder} cannot be written", "Choose another --out.", facts)
    if free < _LEAST_FREE_BYTES:
        return Finding("machine", "disk", "problem", text, "Free some; 5000 tiles of 512x1024 take about 9 GB.", facts)
    return Finding("machine", "disk", "ok", text, facts=facts)


def examine_allocator() -> Finding:
    """Checks for glibc, which the allocator setting of `factory.core.malloc` needs."""
    try:
        library = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else None
    except (OSError, ValueError):
        library = None
    text = f"{library}, freed memory is kept" if library else "not glibc; networks run, but slower on the CPU"
    return Finding("machine", "allocator", "ok" if library else "note", text, facts={"glibc": bool(library)})


def examine_compiler() -> Finding:
    """Checks that machine code of numba's kernels can be kept; see `factory.core.compiled`."""
    folder = compiled()(_kernel).stats.cache_path  # type: ignore[attr-defined]
    if folder is None:
        text, advice = "no folder can be written; every process compiles anew, for seconds", "Set NUMBA_CACHE_DIR"
        return Finding("machine", "compiler cache", "note", text, f"{advice} to one that can.", {"folder": None})
    return Finding("machine", "compiler cache", "ok", f"kept in {folder}", facts={"folder": str(folder)})


def _kernel() -> int:
    return 0


def examine_weights(folder: Path, names: Sequence[str]) -> list[Finding]:
    """Checks the starter weights of a folder: all there, complete safetensors files with matching cards and digests."""
    there = {path.stem: path for path in sorted(folder.glob(f"*{SUFFIX}"))}
    missing = [
        Finding("weights", name + SUFFIX, "problem", f"missing in {folder}", "Run make install.")
        for name in names
        if name not in there
    ]
    return [*map(_examine_weight, there.values()), *missing]


def _examine_weight(path: Path) -> Finding:
    try:
        card = read_card(path)
    except UserError as error:
        return Finding(
            "weights", path.name, "problem", str(error).removeprefix(f"{path}: ").rstrip("."), "Run make install."
        )
    facts = {"kind": card.kind, "sha256": card.sha256, "bytes": card.size_bytes}
    return Finding("weights", path.name, "ok", f"{card.kind}, {card.size_bytes / 1e6:.1f} MB, whole", facts=facts)


def examine_parts() -> list[Finding]:
    """Imports every part of every table of names, and lists the label schemes."""
    schemes = ", ".join(f"{scheme.name} ({len(scheme)})" for scheme in SCHEMES.values())
    findings = [Finding("parts", "label schemes", "ok", schemes, facts={"names": list(SCHEMES)})]
    tables = {"mask generator": MASKS, "renderer": RENDERERS, "joint generator": JOINT, "annotation tool": TOOLS}
    for what, table in tables.items():
        for name in table:
            try:
                resolve(table, name, what)
            except (ImportError, AttributeError, OSError) as error:
                advice = "Run make install."
                findings.append(Finding("parts", f"{what} {name}", "problem", f"does not load ({error})", advice))
            else:
                findings.append(Finding("parts", f"{what} {name}", "ok", table[name]))
    return findings


def examine_readers() -> list[Finding]:
    """Decodes a test image with every reader of images and slides that ingest can use."""
    findings = []
    for name, decodes in (("openslide", _try_openslide), ("JPEG 2000", _try_jpeg2000)):
        try:
            right = decodes()
        except (ImportError, OSError, ValueError, RuntimeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            findings.append(Finding("readers", name, "problem", f"does not work ({reason})", "Run make install."))
            continue
        state: State = "ok" if right else "problem"
        text = "decodes a test image" if right else "decodes a test image to other pixels"
        findings.append(Finding("readers", name, state, text, "" if right else "Reinstall it: make install."))
    return [
        *findings,
        _optional("tiffslide", "tiffslide", "openslide reads slides instead"),
        _optional("object stores", "obstore", f"pip install '{PACKAGE}[cloud]' to read s3://, gs:// and az://"),
    ]


def _optional(name: str, module: str, otherwise: str) -> Finding:
    there = importlib.util.find_spec(module) is not None
    return Finding("readers", name, "ok" if there else "note", "there" if there else f"not installed; {otherwise}")


def _test_image() -> Any:
    rows, columns = np.indices((256, 256), np.uint8)
    return np.stack([rows, columns, rows ^ columns], axis=-1)


def _try_openslide() -> bool:
    """Writes a tiled TIFF and reads it back as a slide."""
    import openslide
    import tifffile

    image = _test_image()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.tif"
        tifffile.imwrite(path, image, tile=(128, 128), photometric="rgb")
        with openslide.OpenSlide(str(path)) as slide:
            region = np.asarray(slide.read_region((16, 32), 0, (64, 48)).convert("RGB"))
    return bool(np.array_equal(region, image[32:80, 16:80]))


def _try_jpeg2000() -> bool:
    import imagecodecs

    image = _test_image()
    return bool(np.array_equal(imagecodecs.jpeg2k_decode(imagecodecs.jpeg2k_encode(image, level=0)), image))


def examine_data(folder: Path) -> list[Finding]:
    """Examines the default data sets, and all others in the folder."""
    usual = {"real": "factory ingest", "synth": "factory make"}
    others = sorted(path.parent.name for path in folder.glob(f"*/{STORE}"))
    return [examine_dataset(folder / name, usual.get(name, "")) for name in dict.fromkeys([*usual, *others])]


def examine_dataset(root: Path, command: str) -> Finding:
    """Examines a data set: missing, unfinished, finished or damaged."""
    name = str(root)
    if not (root / STORE).is_dir():
        return Finding("data", name, "note", f"none yet; {command} makes one", facts={"exists": False})
    try:
        layout = read_layout(root)
        shards = sum(1 for _ in (root / LEDGER).glob("[0-9]*.json"))
        facts = {"exists": True, "finished": False, "samples": layout.n, "shards": layout.shards, "shards_done": shards}
        if not is_finished(root) and shards < layout.shards:
            text = f"unfinished: {shards} of {layout.shards} shards; run its command again to continue"
            return Finding("data", name, "note", text, facts=facts)
        dataset = open_dataset(root)
    except UserError as error:
        return Finding("data", name, "problem", "damaged: " + str(error), f"Run factory verify {root}.")
    if not is_finished(root):
        return Finding("data", name, "note", "unfinished: without SHA256SUMS; run its command again", facts=facts)
    schemes = ", ".join(scheme.name for scheme in dataset.schemes)
    kind = "synthetic" if dataset.info.is_synthetic else "real"
    text = f"{len(dataset)} {kind} tiles of {layout.height}x{layout.width}, scheme {schemes}, finished"
    return Finding("data", name, "ok", text, facts={**facts, "finished": True, "rows": len(dataset)})
