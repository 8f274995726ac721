"""Small repositories for tests: commits, and two branches that are merged."""

import subprocess


def git(folder, *arguments, check=True):
    """What git prints, in a folder, as nobody."""
    command = ["git", "-C", folder, "-c", "user.name=Nobody", "-c", "user.email=nobody@example.org"]
    return subprocess.run([*command, *arguments], check=check, capture_output=True, text=True).stdout


def commit(folder, message="as it is"):
    """Commit everything that is in a folder."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", message)


def merge_two_branches(folder, *changes):
    """Make two branches from what is in a folder, each with one change, and merge them; what git says."""
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / ".gitignore").write_text(".built.json.*\n", encoding="utf-8")
    commit(folder)
    for number, change in enumerate(changes):
        git(folder, "checkout", "--quiet", "-b", f"branch-{number}", "main")
        change()
        commit(folder, f"change {number}")
    return git(folder, "merge", "--no-edit", "branch-0", check=False)
