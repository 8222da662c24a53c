#!/usr/bin/env bash
# Fetches the packages of packages.json from the npm registry; prints the SHA-256 of every script.
set -euo pipefail
cd "$(dirname "$0")"
here=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -c 'import json; [print(p["package"], p["version"], p["file"]) for p in json.load(open("packages.json"))]' |
    while read -r package version file; do
        cd "$work"
        archive=$(npm pack --silent "$package@$version")
        tar -xzf "$archive"
        cp "package/dist/$file" "$here/$file"
        cp package/LICENSE "$here/${file%.min.js}.LICENSE"
        rm -r package
        sha256sum "$here/$file"
    done
