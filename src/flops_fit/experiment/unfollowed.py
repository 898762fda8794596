"""Keep what runs depend on beyond their identity, and say where it differs from now."""

import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import conditions_file, run_folder
from flops_fit.experiment.plan import Plan
from flops_fit.files import read_object, write_object
from flops_fit.plugins.conditions import Conditions


def keep_conditions(results: str | Path, shared: str, now: Conditions) -> None:
    """Keep the conditions ``now`` below ``results``, each as it was when first seen.

    ``shared`` is the hash of the recipe that the runs have in common.
    """
    path = conditions_file(results, shared[:16])
    then = _read(path)
    write_object(path, (now if then is None else now.since(then)).to_dict())


def changed_folders(plan: Plan, results: str | Path, search_paths: Iterable[str]) -> list[str]:
    """The folders that the code of ``plan`` lists and that hold files of other names now.

    ``results`` is the folder of all results; folders are looked for below ``search_paths``.
    """
    then = _read(conditions_file(results, Path(plan.check).stem))
    return [] if then is None else then.changed_folders(search_paths)


def say_unfollowed(plan: Plan, results: str | Path, folders: Iterable[str] = ()) -> None:
    """Print what the runs of ``plan`` depend on that is not followed, and what of it has changed.

    ``results`` is the folder of all results. In ``folders`` the code lists other files than before,
    and was not seen to read other ones.
    """
    path = conditions_file(results, Path(plan.check).stem)
    then = _read(path)
    if then is None:
        return
    for sentence in then.unfollowed:
        print(f"flops-fit: warning: not followed: {sentence}", file=sys.stderr)
    changes = [f"other files lie in {folder}, which the code lists" for folder in folders]
    if changes := [*changes, *then.changes()]:
        print(
            f"flops-fit: warning: since these runs were first planned, {'; '.join(changes)}. Such "
            "changes are not followed: runs that exist are used as they are. To train one again, delete "
            f"{run_folder(results, 'ID')}; if the change does not matter, delete {path}",
            file=sys.stderr,
        )


def _read(path: Path) -> Conditions | None:
    with contextlib.suppress(FlopsFitError, KeyError, TypeError, ValueError):
        return Conditions.from_dict(read_object(path))
    return None
