#!/bin/sh
# submit.sh PROJECT JOBS SCRIPT: start the script of a job as on another machine, and print its folder.
# The job sees nothing of the project, and its working directory is empty.
job=$(mktemp -d "$2/job.XXXXXX")
cp "$3" "$job/script"
mkdir "$job/cwd"
export TMPDIR="$job"
(
    unshare --mount sh -c "mount -t tmpfs none '$1' && ls -A '$1' > '$job/seen' && cd '$job/cwd' && sh '$job/script'"
    echo $? > "$job/status"
) > "$job/log" 2>&1 < /dev/null &
echo "$job"
