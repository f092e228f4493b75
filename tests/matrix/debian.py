"""`python -m tests.matrix.debian FOLDER PATCHELF`: unpack programs of several Debian releases beside the system's own.

Nothing is installed: each release gets a folder with all libraries of its programs, down to the C library. apt checks
signatures and asks the archive that its configuration names.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Redis 7.0; Redis 8.0, Valkey 8.1 and Python 3.13; Python 3.14. A later release needs a later archive keyring.
PACKAGES = {
    "bookworm": ("redis-server",),
    "trixie": ("redis-server", "valkey-server", "python3.13"),
    "sid": ("python3.14",),
}
PROGRAMS = ("redis-check-rdb", "valkey-check-rdb", "python3.*")  # the servers are links to the first two
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def main() -> None:
    """Unpack each release's programs into a folder of its name."""
    folder, patchelf = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    archive = find_archive()
    if archive is None or not KEYRING.exists():
        print("no list of Debian's archive (apt-get update): its servers and Pythons are left out")
        return
    for release, packages in PACKAGES.items():
        root = folder / release
        for package in download(archive, release, packages, root.with_suffix(".apt")):
            subprocess.run(["dpkg-deb", "-x", package, root], check=True)
        bind_libraries(root, patchelf)


def find_archive() -> str | None:
    """Return the address of Debian's archive, where apt has a list of it."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian"]
    known = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return known[0] if known else None


def download(archive: str, release: str, packages: tuple[str, ...], state: Path) -> list[Path]:
    """Download packages and all that they depend on, with lists and a cache apart from the system's."""
    for name in ("lists/partial", "archives/partial"):
        (state / name).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()  # nothing counts as installed, so each library is downloaded
    sources = state / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] {archive} {release} main\n")
    options = {
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": state,
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "/dev/null",
        "Debug::NoLocking": 1,  # the system's lock is root's, and nothing is installed
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    install = ["install", "--yes", "--no-install-recommends", "--download-only", *packages]
    for command in (["clean"], ["update"], install):
        subprocess.run([*apt, *command], check=True)
    return sorted((state / "archives").glob("*.deb"))


def bind_libraries(root: Path, patchelf: Path) -> None:
    """Have the programs below root load the C library and the others that lie there."""
    loader = next(found for found in root.rglob("ld-linux-*.so.*") if not found.is_symlink())
    libraries = f"{loader.parent}:{root}/usr/lib/{loader.parent.name}"
    # A forced rpath counts for libraries of libraries too.
    for program in (found for name in PROGRAMS for found in root.glob(f"usr/bin/{name}")):
        if not program.is_symlink():
            bind = ["--set-interpreter", str(loader), "--force-rpath", "--set-rpath", libraries]
            subprocess.run([patchelf, *bind, program], check=True)


if __name__ == "__main__":
    main()
