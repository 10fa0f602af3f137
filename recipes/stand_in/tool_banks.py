"""The tools that questions are about: hand-written ones, and families made of verbs and nouns.

A line of `tools_*.txt` is `names ; descriptions ; parameters ; questions`. Alternatives are split
by `|`. A parameter is `name/other_name:kind`, optional with `?` behind the name; a question names
its parameters as {0}, {1}, ... and gives exactly the arguments that it mentions. What is held out
(its own lines, verbs and nouns) never occurs in training.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent
TRAIN = (_FOLDER / "tools_train.txt").read_text(encoding="utf-8")
HELD_OUT = (_FOLDER / "tools_held_out.txt").read_text(encoding="utf-8")

VERBS = {
    "train": {
        "create": "Create|Make|Set up",
        "delete": "Delete|Remove|Erase",
        "update": "Update|Change|Modify",
        "find": "Find|Look for|Search for",
        "list": "List|Show me|Display",
        "cancel": "Cancel|Call off",
        "open": "Open|Bring up",
        "archive": "Archive|File away",
        "share": "Share|Pass on",
        "copy": "Copy|Duplicate",
        "start": "Start|Launch|Begin",
        "stop": "Stop|End|Halt",
        "approve": "Approve|Accept",
        "assign": "Assign|Allocate",
        "review": "Review|Check",
        "move": "Move|Shift",
        "register": "Register|Enter",
        "buy": "Buy|Purchase",
        "rename": "Rename",
        "download": "Download|Get",
        "pause": "Pause|Suspend",
        "publish": "Publish|Release",
    },
    "held_out": {
        "restore": "Restore|Bring back",
        "submit": "Submit|Hand in",
        "merge": "Merge|Combine",
        "inspect": "Inspect|Examine",
        "freeze": "Freeze|Lock",
        "schedule": "Schedule|Plan",
        "rate": "Rate|Score",
        "verify": "Verify|Confirm",
    },
}

NOUNS = {
    "train": [
        "invoice",
        "ticket",
        "order",
        "project",
        "folder",
        "document",
        "account",
        "contract",
        "meeting",
        "lesson",
        "course",
        "report",
        "playlist",
        "album",
        "photo",
        "channel",
        "campaign",
        "budget",
        "shipment",
        "booking",
        "survey",
        "poll",
        "recipe",
        "workout",
        "ticket_sale",
        "server",
        "database",
        "backup",
        "branch",
        "release",
        "form",
        "profile",
        "group",
        "team",
        "member",
        "badge",
        "coupon",
        "voucher",
        "policy",
        "claim",
        "device",
        "sensor",
        "camera_feed",
        "route",
        "vehicle",
        "parking_spot",
        "property",
    ],
    "held_out": [
        "reservation",
        "dataset",
        "newsletter",
        "payment",
        "exam",
        "apartment",
        "concert",
        "locker",
        "prescription",
        "tournament",
        "warehouse",
        "mailbox",
    ],
}

ATTRIBUTES = {
    "train": {
        "id": ("code", "with the id {}|number {}|{}"),
        "title": ("title", "called {}|named {}|titled {}"),
        "owner": ("person", "of {}|owned by {}|belonging to {}"),
        "amount": ("money", "for {} dollars|with an amount of {}"),
        "date": ("date", "for {}|dated {}|on {}"),
        "priority": ("priority", "with {} priority|priority {}"),
        "color": ("color", "in {}|with the color {}"),
        "city": ("city", "in {}|from {}"),
        "limit": ("few", "with a limit of {}|at most {}"),
        "category": ("topic", "about {}|in the category {}"),
        "email": ("email", "for {}|using {}"),
        "company": ("company", "of {}|for {}"),
        "quantity": ("count", "with {} units|quantity {}"),
        "format": ("format", "as {}|in {} format"),
        "language": ("language", "in {}|with {} as the language"),
        "year": ("year", "from {}|of the year {}"),
    },
    "held_out": {
        "reference": ("code", "with reference {}|ref {}"),
        "label": ("title", "labelled {}|with the label {}"),
        "contact_person": ("person", "with {} as the contact|handled by {}"),
        "deadline": ("date", "due {}|until {}"),
        "fee": ("money", "with a fee of {}|at {} dollars"),
        "region": ("country", "for {}|within {}"),
        "seats": ("count", "with {} seats|for {} people"),
        "urgency": ("priority", "urgency {}|with {} urgency"),
    },
}
