"""Shell: a script, run by bash or by what its first line names."""

from __future__ import annotations

from apps.nodes.kinds.base import (
    FOLDERS,
    Command,
    Context,
    Kind,
    environment,
    plain_lines,
    rendered,
)
from apps.nodes.kinds.fields import ARGUMENTS, CONTENT, ENTRY_FILE, FILES, PARAMETERS, SECRETS, Spec


class Shell(Kind):
    name = "shell"
    label = "Shell"
    fields = (CONTENT, ENTRY_FILE, ARGUMENTS, PARAMETERS, SECRETS, FILES)

    def command(self, spec: Spec, context: Context) -> Command:
        files: dict[str, str] = {}
        interpreter = ["bash"]
        if entry_file := spec.get("entry_file"):
            script = str(context.files[entry_file])
        else:
            text = files["main.sh"] = plain_lines(spec["content"])
            script = "main.sh"
            interpreter = _first_line(text) or interpreter
        values = rendered(spec, context)
        return Command(
            argv=(*interpreter, script, *map(values, spec.get("arguments") or ())),
            env=environment(spec, context),
            cwd=context.folder,
            files=files,
            folders=FOLDERS,
        )


def _first_line(text: str) -> list[str] | None:
    """The interpreter that `#!` names, split as Linux splits it: a path and one argument."""
    line = text.partition("\n")[0]
    return line[2:].strip().split(None, 1) or None if line.startswith("#!") else None


KIND = Shell()
