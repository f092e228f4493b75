"""The versions that `make matrix` finds."""

from __future__ import annotations

from pathlib import Path

from tests.matrix.servers import find_cells


def test_a_server_is_found_in_a_folder_of_programs_by_its_own_name(tmp_path: Path) -> None:
    """Debian's server is a link, started by the link's name; its start script is no server."""
    programs, scripts = tmp_path / "debian/usr/bin", tmp_path / "debian/etc/init.d"
    for folder in (programs, scripts):
        folder.mkdir(parents=True)
    program = programs / "redis-check-rdb"
    program.write_text("#!/bin/sh\necho Redis server v=1.2.3 sha=0\n")
    script = scripts / "redis-server"
    script.write_text("#!/bin/sh\necho Redis server v=1.2.4 sha=0\n")
    for path in (program, script):
        path.chmod(0o755)
    (programs / "redis-server").symlink_to("redis-check-rdb")
    found = {cell.name: cell.variables for cell in find_cells(tmp_path)}
    assert found["Redis 1.2.3"] == {"TESTS_REDIS": str(programs / "redis-server")}
    assert "Redis 1.2.4" not in found
