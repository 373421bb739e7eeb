"""The command `push`: a checkpoint to the Hub, or what would be uploaded."""

import argparse

from ..hub.push import push_checkpoint, repository_files, repository_url


def push(arguments: argparse.Namespace) -> None:
    """Upload a checkpoint, or say what would be uploaded."""
    url = repository_url(arguments.repo_id, arguments.revision)
    found = repository_files(arguments.model, arguments.repo_id)
    for path, reason in found.left_out.items():
        print(f"left out: {path} ({reason})")
    if arguments.dry_run:
        sizes, visibility = found.sizes, "public" if arguments.public else "private"
        for path, size in sizes.items():
            print(f"{size:>14,}  {path}")
        print(f"{sum(sizes.values()):>14,}  bytes in {len(sizes)} files would go to {url} ({visibility})")
        return
    commit = push_checkpoint(
        arguments.model,
        arguments.repo_id,
        private=not arguments.public,
        revision=arguments.revision,
        tag=arguments.tag,
    )
    print(f"uploaded to {commit.commit_url}")
    print(f'to load this very version: from_pretrained("{arguments.repo_id}", revision="{commit.oid}")')
