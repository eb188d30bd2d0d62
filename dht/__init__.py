"""Who has it: Kademlia as libp2p speaks it (spec/dht.md)."""
