"""What the benchmarks' reports share."""

import json
import sys
from statistics import median


class Report:
    """Prints what was measured and keeps count of promises that were broken."""

    def __init__(self, directory, check):
        self.directory = directory
        self.check = check == "yes"
        self.broken = []

    def rounds(self, name):
        """Pairs of seconds, of `compare`: the first command's and the second's,
        round by round. Each is the median of its round."""
        with open(f"{self.directory}/{name}.json") as file:
            times = [result["median"] for result in json.load(file)["results"]]
        return list(zip(times[::2], times[1::2]))

    def show(self, name, first, second):
        """Prints both and returns the median ratio and the second's median. A busy
        moment of the machine moves neither."""
        pairs = self.rounds(name)
        print(f"{first:<36} {1000 * median(a for a, _ in pairs):9.2f} ms")
        print(f"{second:<36} {1000 * median(b for _, b in pairs):9.2f} ms")
        return median(b / a for a, b in pairs), median(b for _, b in pairs)

    def verdict(self, text, kept):
        print(f"  {text}: {'kept' if kept else 'NOT KEPT'}")
        if not kept:
            self.broken.append(text)

    def finish(self):
        if self.check and self.broken:
            sys.exit("error: promises not kept\nhint: run it again while nothing else runs")
