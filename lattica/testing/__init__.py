"""Nodes by the dozen or by the thousand in one process, under a clock that costs nothing.

Two levels, one vocabulary of faults (`Partition`, `Heal`, `Crash`, `Restart`, `Degrade`, `churn`):

- `Simulation`: pure state machines in one plain loop, for a hundred to ten thousand nodes. Whatever
  is handed a `Host` (time, chance, a way to send, a disk that survives) can be driven by it.
- `open_cluster`, `open_memory_meshes`: whole nodes over a `MemoryNetwork` under
  `trio.testing.MockClock`, for dozens: the encryption, the multiplexing and the protocols are real.

A `Simulation` depends on its seed alone, so a failure is repeated by its seed. `scenarios` has
those that `lattica sim` runs; `measure_dht` what they measure.
"""

from ._cluster import (
    Cluster as Cluster,
    ClusterHost as ClusterHost,
    open_cluster as open_cluster,
)
from ._dht_node import SimulatedDht as SimulatedDht
from ._dht_world import (
    DhtWorld as DhtWorld,
    peer_near as peer_near,
    random_peer as random_peer,
)
from ._faults import (
    Crash as Crash,
    Degrade as Degrade,
    Fault as Fault,
    Faults as Faults,
    Heal as Heal,
    Partition as Partition,
    Restart as Restart,
    apply as apply,
    churn as churn,
)
from ._latency import (
    Latency as Latency,
    LogNormal as LogNormal,
    Planet as Planet,
    Uniform as Uniform,
)
from ._meshes import open_memory_meshes as open_memory_meshes, sample_identity as sample_identity
from ._simulation import (
    Actor as Actor,
    Clock as Clock,
    Host as Host,
    Simulation as Simulation,
    Timer as Timer,
)
