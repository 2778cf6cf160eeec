"""A SLURM of this machine's own: sbatch, srun, sacct, scontrol and scancel as scripts that start processes."""

import os
import stat
from pathlib import Path

PROGRAMS = {
    # a job: its script, begun again where it was requeued; its state in a file
    "sbatch": """
[ -z "$REFUSE" ] || { echo "sbatch: error: $REFUSE" >&2; exit 1; }
id=$(ls $AT/jobs | wc -l); cp "$1" $AT/jobs/$id; echo RUNNING > $AT/states/$id
export SLURM_JOB_ID=$id SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0
(
    bash "$1"; code=$?
    while [ -e $AT/requeued/$id ]; do rm $AT/requeued/$id; bash "$1"; code=$?; done
    [ $code = 0 ] && echo COMPLETED > $AT/states/$id || echo "$STATE" > $AT/states/$id
) </dev/null >/dev/null 2>&1 &
echo "Submitted batch job $id"
""",
    # options that submitit gives, then the command
    "srun": """
fill() { echo "$1" | sed "s/%j/$SLURM_JOB_ID/; s/%t/0/"; }
while true; do case "$1" in
    --unbuffered) shift;;
    --output) out=$(fill "$2"); shift 2;;
    --error) err=$(fill "$2"); shift 2;;
    *) break;;
esac; done
"$@" >>"$out" 2>>"$err" & echo $! > $AT/pids/$SLURM_JOB_ID; wait $!
""",
    "sacct": """
echo "JobID|State|NodeList"
for file in $AT/states/*; do echo "$(basename $file)|$(cat $file)|here"; done
""",
    "scontrol": 'touch $AT/requeued/"$2"',
    "scancel": 'echo "$1" >> $AT/cancelled; kill -9 $(cat $AT/pids/"$1")',
}


def install(folder: Path, monkeypatch, *, state: str = "OUT_OF_MEMORY", refuse: str = "") -> Path:
    """Put it first on PATH. Scripts of jobs lie in FOLDER/jobs, process ids of their tasks in FOLDER/pids, by job id.

    state: of a job that ends without success. refuse: what sbatch says instead of queueing anything.
    """
    programs = folder / "bin"
    for place in (programs, *(folder / name for name in ("jobs", "states", "requeued", "pids"))):
        place.mkdir(parents=True)
    for name, text in PROGRAMS.items():
        script = programs / name
        script.write_text(f"#!/bin/bash\nAT={folder}\nREFUSE={refuse!r}\nSTATE={state!r}\n{text}")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return folder
