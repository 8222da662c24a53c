"""Commands for whoever begins: a new case, a new model."""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path

from biology import artefacts
from biology.printing import print_json

Arguments = argparse.Namespace


def new_case(args: Arguments) -> None:
    """make a folder of experiments/ that already runs, from the template or from another case"""
    from biology.cases.case import load_case
    from biology.cases.claim_file import load_claims
    from biology.config import config_file, load_config
    from biology.scaffolds import new_case as cases

    path = config_file(args.config)
    root, name = path.parent, args.name
    load_config(path).model(args.model)  # a wrong name is said before anything is written
    source = args.source or cases.TEMPLATE
    cases.write_case(root, name, cases.new_case(root, name, source, date.today()))
    met = cases.meet(path, args.model, name)
    case, claims = load_case(root, name), load_claims(root, name)
    prompts, first = len(case.items) + len(case.prompts), claims[0].id if claims else "CLAIM"
    print(
        f"experiments/{name}: {prompts} prompts, {len(case.supernodes)} supernodes, {len(case.experiments)} experiments, "
        f"{len(claims)} claims, not registered yet.\n{met}\n\n"
        f"Next:\n"
        f"  biology explain {name:<36} what it says, in English\n"
        f"  edit experiments/{name}/case.yaml and claims.yaml, then again\n"
        f"  {'biology lock':<44} register the claims, before you look at a result\n"
        f"  {f'biology check {first} --model {args.model}':<44} one claim, from weights to verdict\n"
        f"  {'make figures':<44} all of it\n"
        f"Step by step: {cases.HELP}"
    )


def new_model(args: Arguments) -> None:
    """look at a model directory and print its entry for config.yaml; --write puts it there"""
    from biology.config import config_file, load_config
    from biology.records import InputError
    from biology.scaffolds import new_model as models
    from biology.scaffolds.config_text import with_model

    folder = Path(args.directory)
    given = None if args.transcoders is None else Path(args.transcoders)
    found, name = models.look(folder), models.called(folder, args.name)
    made = models.entry(found, name, given)
    if args.json:
        print_json(
            {"name": name, "path": str(found.path), "architecture": found.architecture, "layers": found.layers}
            | {"width": found.width, "vocabulary": found.vocabulary, "memory": found.plan.total}
            | {
                "transcoders": [{"path": str(path), "layout": layout} for path, layout in found.transcoders],
                "entry": made,
            }
        )
    else:
        print(made, end="")
        if not found.tokenizer:
            print("It has no tokenizer: only `biology trace --token-ids` can ask it something.")
    if args.write:
        path = config_file(args.config)
        if name in load_config(path).models:
            raise InputError(f"{path} has a model '{name}' already: choose another name with --name.")
        text = with_model(path.read_text(encoding="utf-8"), made)
        if text is None:
            raise InputError(f"{path} has no line `models:` to put the entry under: put it there by hand.")
        artefacts.write_text(path, text)
        load_config(path)
    if not args.json:
        done = "Written into" if args.write else "Put this under `models:` in"
        print(
            f"\n{done} {args.config}. Next:\n"
            f"  {f'biology load --model {name}':<44} whether all of it fits together\n"
            f'  {f"""biology trace "..." --model {name}""":<44} one prompt\n'
            f"  snakemake --cores 8 figures/all --config model={name}\n"
            f"Step by step: {models.HELP}"
        )
