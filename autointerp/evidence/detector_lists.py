"""Ordered word lists for `successor`, and word pairs for `relation`. Members that are no single token are dropped."""

from __future__ import annotations

_NUMBER_WORDS = "one two three four five six seven eight nine ten eleven twelve"
_WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
_MONTHS = "January February March April May June July August September October November December"

ORDERED: dict[str, tuple[str, ...]] = {
    "numerals": tuple(str(n) for n in range(21)),
    "number words": tuple(_NUMBER_WORDS.split()),
    "weekdays": tuple(_WEEKDAYS.split()),
    "months": tuple(_MONTHS.split()),
    "letters": tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
}


def _read(lines: str) -> tuple[tuple[str, str], ...]:
    return tuple((a, b) for a, _, b in (pair.partition(":") for pair in lines.split()))


_COUNTRIES = """
    France:Paris Germany:Berlin Italy:Rome Spain:Madrid Russia:Moscow Japan:Tokyo China:Beijing England:London
    Egypt:Cairo Greece:Athens Poland:Warsaw Austria:Vienna Ireland:Dublin Norway:Oslo Cuba:Havana Iraq:Baghdad
    Iran:Tehran Syria:Damascus Turkey:Ankara Portugal:Lisbon Sweden:Stockholm Hungary:Budapest Kenya:Nairobi
"""
_OPPOSITES = """
    big:small hot:cold high:low good:bad old:new old:young long:short fast:slow left:right up:down open:closed
    early:late first:last rich:poor hard:easy strong:weak wet:dry light:dark day:night north:south east:west
    true:false black:white inside:outside before:after above:below more:less many:few win:lose buy:sell
"""
_PASTS = """
    go:went come:came see:saw take:took make:made give:gave find:found know:knew think:thought say:said get:got
    run:ran write:wrote speak:spoke begin:began fall:fell hold:held keep:kept leave:left lose:lost meet:met
    pay:paid send:sent stand:stood tell:told win:won build:built bring:brought buy:bought catch:caught
"""
_PLURALS = """
    man:men woman:women child:children foot:feet tooth:teeth mouse:mice person:people city:cities country:countries
    book:books house:houses day:days year:years word:words hand:hands eye:eyes game:games team:teams
    car:cars tree:trees king:kings friend:friends girl:girls boy:boys school:schools
"""
_GENDERS = """
    he:she him:her his:her man:woman boy:girl king:queen father:mother brother:sister son:daughter husband:wife
    uncle:aunt prince:princess actor:actress sir:madam
"""
RELATIONS: tuple[tuple[str, str], ...] = _read(_COUNTRIES + _OPPOSITES + _PASTS + _PLURALS + _GENDERS)
