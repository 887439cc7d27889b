"""Resolves states and checks events as Synapse does, for comparison with ours.

Runs in a Python environment in which Synapse is installed. Each line of standard input is a room as JSON: `version`,
`events` (each with `id`, `pdu` and `rejected`), `cases` (lists of states, a state being a list of [type, state key,
event id]) and `checks` (an event id and the state before it). Each is answered by a line: `ids` (event ids that differ),
`resolved` (a state per case) and `denied` (the ids of the checked events that are not allowed).
"""

import asyncio
import json
import logging
import sys

from synapse.api.errors import AuthError, SynapseError
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS, StateResolutionVersions
from synapse.event_auth import check_state_dependent_auth_rules
from synapse.events import make_event_from_dict
from synapse.state import v1, v2
from synapse.storage.databases.main.event_federation import StateDifference


class Clock:
    """A clock for an algorithm that only pauses now and then."""

    async def sleep(self, _duration):
        return None


class Events:
    """The store of one room's events, with everything answered by its definition."""

    def __init__(self, events):
        self.by_id = events
        self.chains = {}

    def chain(self, event_id):
        """The auth chain of an event, without itself."""
        if event_id not in self.chains:
            chain = set()
            for auth_id in self.by_id[event_id].auth_event_ids():
                chain.add(auth_id)
                chain |= self.chain(auth_id)
            self.chains[event_id] = chain
        return self.chains[event_id]

    async def get_events(self, event_ids, allow_rejected=False):
        events = {event_id: self.by_id[event_id] for event_id in event_ids}
        return {id: event for id, event in events.items() if allow_rejected or event.rejected_reason is None}

    async def factory(self, event_ids):
        return await self.get_events(event_ids)

    async def get_auth_chain_difference(self, _room_id, state_sets, conflicted, _more):
        chains = [set().union(*({id} | self.chain(id) for id in ids)) if ids else set() for ids in state_sets]
        difference = set().union(*chains) - set.intersection(*chains)
        subgraph = None
        if conflicted is not None:
            below = set().union(*({id} | self.chain(id) for id in conflicted)) if conflicted else set()
            subgraph = {id for id in below if ({id} | self.chain(id)) & conflicted}
        return StateDifference(auth_difference=difference, conflicted_subgraph=subgraph)


def state_of(entries):
    return {(kind, state_key): event_id for kind, state_key, event_id in entries}


async def resolve(version, room_id, states, events):
    if version.state_res == StateResolutionVersions.V1:
        return await v1.resolve_events_with_store(room_id, version, states, None, events.factory)
    return await v2.resolve_events_with_store(Clock(), room_id, version, states, None, events)


def is_denied(check, events):
    state = [events.by_id[event_id] for _, _, event_id in check["state"]]
    try:
        check_state_dependent_auth_rules(events.by_id[check["event"]], state)
    except (AuthError, SynapseError):
        return True
    return False


async def answer(room):
    version = KNOWN_ROOM_VERSIONS[room["version"]]
    made, differ = {}, []
    for one in room["events"]:
        reason = "rejected" if one["rejected"] else None
        event = make_event_from_dict(one["pdu"], version, rejected_reason=reason)
        if event.event_id != one["id"]:
            differ.append(one["id"])
        made[one["id"]] = event
    events = Events(made)
    room_id = next(iter(made.values())).room_id
    resolved = []
    for case in room["cases"]:
        state = await resolve(version, room_id, [state_of(entries) for entries in case], events)
        resolved.append([[kind, key, id] for (kind, key), id in sorted(state.items())])
    denied = [check["event"] for check in room["checks"] if is_denied(check, events)]
    return {"ids": differ, "resolved": resolved, "denied": denied}


async def main():
    logging.disable(logging.CRITICAL)
    for line in sys.stdin:
        print(json.dumps(await answer(json.loads(line))), flush=True)


asyncio.run(main())
