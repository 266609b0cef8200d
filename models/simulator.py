"""Simulated card transactions: who paid where, when, how much, and which payments were fraud.

The customers, the terminals and the three fraud scenarios are those described by Le Borgne et al., *Reproducible
Machine Learning for Credit Card Fraud Detection* (2022), chapter 3, "Transaction data simulator". Where the
description leaves a choice open, the docstring of the function that makes it says which one was made.

Amounts are in an unnamed currency and stay whole cents until the end, so that comparing one with a threshold is exact.
Times are whole seconds of local time.
"""

from dataclasses import dataclass
from datetime import date
from math import isfinite
from numbers import Integral

import numpy as np
import numpy.typing as npt
import pandas as pd

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Scenarios = npt.NDArray[np.int8]

SECONDS_PER_DAY = 86_400

# The population of the book's simulator (Le Borgne et al. 2022, chapter 3).
GRID_SIDE = 100.0  # customers and terminals lie uniformly on a square of this side
MEAN_AMOUNT = (5.0, 100.0)  # bounds of a customer's mean amount, uniform
AMOUNT_STD_RATIO = 0.5  # standard deviation of a customer's amounts, as a share of their mean
MEAN_PER_DAY = (0.0, 4.0)  # bounds of a customer's mean number of transactions per day, uniform
TIME_OF_DAY_MEAN_S = 43_200.0  # noon
TIME_OF_DAY_STD_S = 20_000.0

GENUINE, LARGE_AMOUNT, COMPROMISED_TERMINAL, COMPROMISED_CUSTOMER = range(4)  # the values of TX_FRAUD_SCENARIO


@dataclass(frozen=True)
class Simulation:
    """The size of a simulated world and the habits of its fraudsters; the defaults are the book's, over 60 days.

    Raises ValueError for a count below its least value, a measure that is not positive and finite, and more entities
    compromised per day than there are.
    """

    n_customers: int = 5_000  # cards, one per customer
    n_terminals: int = 10_000  # places to pay
    n_days: int = 60  # whole days simulated, from midnight of `start`
    start: date = date(2018, 4, 1)  # first day
    radius: float = 5.0  # how far from home a customer pays, in grid units (the grid is 100 x 100)
    large_amount: float = 220.0  # scenario 1: every amount over this is fraud, in currency units
    compromised_terminals_per_day: int = 2  # scenario 2: terminals that fall to fraudsters each day; 0 turns it off
    terminal_compromise_days: int = 28  # scenario 2: days a terminal stays compromised, its first included
    compromised_customers_per_day: int = 3  # scenario 3: cards whose details leak each day; 0 turns it off
    customer_compromise_days: int = 14  # scenario 3: days a card stays compromised, its first included
    stolen_one_in: int = 3  # scenario 3: one in this many of the card's transactions is the thief's
    stolen_amount_factor: float = 5.0  # scenario 3: the thief's amount as a multiple of the customer's

    def __post_init__(self) -> None:
        for name in ("n_customers", "n_terminals", "n_days", "stolen_one_in"):
            _require_count(name, getattr(self, name), least=1)
        for name in ("compromised_terminals_per_day", "compromised_customers_per_day"):
            _require_count(name, getattr(self, name), least=0)
        for name in ("terminal_compromise_days", "customer_compromise_days"):
            _require_count(name, getattr(self, name), least=1)
        for name in ("radius", "large_amount", "stolen_amount_factor"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive, finite number, got {value!r}")
        for some, among in (
            ("compromised_terminals_per_day", "n_terminals"),
            ("compromised_customers_per_day", "n_customers"),
        ):
            if getattr(self, some) > getattr(self, among):
                raise ValueError(f"{some} is {getattr(self, some)}, but {among} is only {getattr(self, among)}")


def simulate(simulation: Simulation, seed: int) -> pd.DataFrame:
    """The transactions of one simulated world, one row each, sorted by time; equal seeds give equal frames.

    Columns:
        TRANSACTION_ID      int64, 0, 1, 2, ... in time order
        TX_DATETIME         datetime64[s], local time
        CUSTOMER_ID         int32, 0 to n_customers - 1
        TERMINAL_ID         int32, 0 to n_terminals - 1
        TX_AMOUNT           float64, currency units, two decimals, never negative
        TX_FRAUD            int8, 1 when the transaction is fraud
        TX_FRAUD_SCENARIO   int8, 0 genuine, 1 large amount, 2 compromised terminal, 3 compromised customer

    The population, the spending and the fraud draw from three independent streams of the seed, so a change to a fraud
    setting leaves every customer, time and place where it was. The share of fraud grows until the first compromised
    terminals recover: compare rates only after `terminal_compromise_days`.
    Empty, with the same columns, when nobody buys anything. Raises ValueError for a negative seed.
    """
    population, spending, fraud = (np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(3))
    world = _World.draw(simulation, population)
    time_s, customer, terminal, cents = _spend(simulation, world, spending)
    scenario, cents = _defraud(simulation, time_s // SECONDS_PER_DAY, customer, terminal, cents, fraud)
    return pd.DataFrame(
        {
            "TRANSACTION_ID": np.arange(len(time_s), dtype=np.int64),
            "TX_DATETIME": np.datetime64(simulation.start, "s") + time_s.astype("timedelta64[s]"),
            "CUSTOMER_ID": customer.astype(np.int32),
            "TERMINAL_ID": terminal.astype(np.int32),
            "TX_AMOUNT": cents / 100,
            "TX_FRAUD": (scenario != GENUINE).astype(np.int8),
            "TX_FRAUD_SCENARIO": scenario,
        }
    )


@dataclass(frozen=True)
class _World:
    """What stays fixed while the days go by: each customer's habits and the terminals within their reach."""

    mean_amount: Floats  # (n_customers,) currency units
    mean_per_day: Floats  # (n_customers,) transactions
    reach_start: Ints  # (n_customers + 1,) customer c reaches reach[reach_start[c]:reach_start[c + 1]]
    reach: Ints  # terminal ids

    @classmethod
    def draw(cls, simulation: Simulation, rng: np.random.Generator) -> "_World":
        homes = rng.uniform(0, GRID_SIDE, (simulation.n_customers, 2))
        places = rng.uniform(0, GRID_SIDE, (simulation.n_terminals, 2))
        mean_amount = rng.uniform(*MEAN_AMOUNT, simulation.n_customers)
        mean_per_day = rng.uniform(*MEAN_PER_DAY, simulation.n_customers)
        return cls(mean_amount, mean_per_day, *_within(simulation.radius, homes, places))


def _within(radius: float, homes: Floats, places: Floats) -> tuple[Ints, Ints]:
    """The places within the radius of each home: where each home's list starts, and the lists end to end.

    The grid is cut into square cells no smaller than the radius, so only a home's own cell and the eight around it
    can hold a place in reach. Memory grows with the number of (home, place) pairs in those cells.
    """
    # A radius below one unit would only make more cells than there are places.
    side = max(radius, 1.0)
    n_columns = int(GRID_SIDE / side) + 3  # one column spare on either side, so a neighbour never wraps to another row
    home_row, home_column = (homes // side).astype(np.int64).T + 1
    place_row, place_column = (places // side).astype(np.int64).T + 1
    place_cell = place_row * n_columns + place_column
    by_cell = np.argsort(place_cell, kind="stable")
    cells = place_cell[by_cell]
    # Three neighbouring cells of one row are one run of `cells`: three runs per home cover the nine cells.
    middle = (home_row[:, None] + np.array([-1, 0, 1])) * n_columns + home_column[:, None]
    first = np.searchsorted(cells, middle - 1, side="left")
    last = np.searchsorted(cells, middle + 1, side="right")
    run, at = _runs(first.ravel(), last.ravel())
    home, place = run // 3, by_cell[at]
    is_near = ((homes[home] - places[place]) ** 2).sum(axis=1) < radius**2
    n_near = np.bincount(home[is_near], minlength=len(homes))
    return np.concatenate([[0], np.cumsum(n_near)]), place[is_near]


def _spend(simulation: Simulation, world: _World, rng: np.random.Generator) -> tuple[Ints, Ints, Ints, Ints]:
    """Genuine transactions in time order: seconds since the start, customer, terminal, amount in cents.

    A time of day that falls outside its day drops the transaction (about 3 % of them); a negative amount is drawn
    again, uniformly from 0 to twice the customer's mean; a customer with no terminal in reach never buys.
    """
    n_reach = np.diff(world.reach_start)
    per_day = np.where(n_reach > 0, world.mean_per_day, 0.0)
    n_bought = rng.poisson(per_day, (simulation.n_days, simulation.n_customers))
    day, customer = np.divmod(np.repeat(np.arange(n_bought.size), n_bought.ravel()), simulation.n_customers)

    second = np.floor(rng.normal(TIME_OF_DAY_MEAN_S, TIME_OF_DAY_STD_S, len(day)))
    is_within_day = (second >= 0) & (second < SECONDS_PER_DAY)
    time_s = (day * SECONDS_PER_DAY + second.astype(np.int64))[is_within_day]
    in_time_order = np.argsort(time_s, kind="stable")
    time_s, customer = time_s[in_time_order], customer[is_within_day][in_time_order]

    terminal = world.reach[world.reach_start[customer] + rng.integers(0, n_reach[customer])]
    mean = world.mean_amount[customer]
    amount = rng.normal(mean, AMOUNT_STD_RATIO * mean)
    is_negative = amount < 0
    amount[is_negative] = rng.uniform(0, 2 * mean[is_negative])
    return time_s, customer, terminal, np.rint(100 * amount).astype(np.int64)


def _defraud(
    simulation: Simulation, day: Ints, customer: Ints, terminal: Ints, cents: Ints, rng: np.random.Generator
) -> tuple[Scenarios, Ints]:
    """Each transaction's fraud scenario, and the amounts in cents after the thieves of scenario 3 have been shopping.

    Where scenarios meet on one transaction the later number stands, as in the book. The thief takes one in
    `stolen_one_in` of a spell's transactions, rounded down; where two spells of a card overlap, both take their share
    and an amount is still multiplied only once.
    """
    scenario = np.where(cents > 100 * simulation.large_amount, LARGE_AMOUNT, GENUINE).astype(np.int8)

    fallen = _daily_draw(simulation.n_days, simulation.n_terminals, simulation.compromised_terminals_per_day, rng)
    _, row = _spells(day, terminal, fallen, simulation.terminal_compromise_days)
    scenario[row] = COMPROMISED_TERMINAL

    leaked = _daily_draw(simulation.n_days, simulation.n_customers, simulation.compromised_customers_per_day, rng)
    spell, row = _spells(day, customer, leaked, simulation.customer_compromise_days)
    shuffled = np.lexsort((rng.random(len(row)), spell))  # within each spell
    n_in_spell = np.bincount(spell, minlength=leaked.size)
    rank = np.arange(len(row)) - np.repeat(np.cumsum(n_in_spell) - n_in_spell, n_in_spell)
    stolen = row[shuffled[rank < np.repeat(n_in_spell // simulation.stolen_one_in, n_in_spell)]]
    scenario[stolen] = COMPROMISED_CUSTOMER
    cents = cents.copy()
    cents[stolen] = np.rint(simulation.stolen_amount_factor * cents[stolen]).astype(np.int64)
    return scenario, cents


def _daily_draw(n_days: int, n: int, per_day: int, rng: np.random.Generator) -> Ints:
    """The entities compromised on each day, (n_days, per_day): distinct within a day, independent between days."""
    return np.stack([rng.choice(n, per_day, replace=False) for _ in range(n_days)])


def _spells(day: Ints, entity: Ints, compromised: Ints, length_days: int) -> tuple[Ints, Ints]:
    """The transactions of each spell of compromise: spell numbers, ascending, and the row of each transaction.

    compromised: (n_days, per_day) entities; a spell lasts length_days from its day, or until the days run out. A row
    appears once for every spell that it falls into.
    """
    n_days, per_day = compromised.shape
    key = entity * n_days + day
    by_key = np.argsort(key, kind="stable")
    keys = key[by_key]
    first_day = np.repeat(np.arange(n_days), per_day)
    end_day = np.minimum(first_day + length_days, n_days)
    offset = compromised.ravel() * n_days
    spell, at = _runs(np.searchsorted(keys, offset + first_day), np.searchsorted(keys, offset + end_day))
    return spell, by_key[at]


def _runs(start: Ints, end: Ints) -> tuple[Ints, Ints]:
    """The half-open ranges [start, end) end to end: the number of the range, and the position, of each element."""
    length = end - start
    number = np.repeat(np.arange(len(start)), length)
    before = np.cumsum(length) - length
    return number, np.arange(len(number)) - before[number] + start[number]


def _require_count(name: str, value: object, *, least: int) -> None:
    if not isinstance(value, Integral) or int(value) < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
