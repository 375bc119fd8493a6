"""Word lists of the demo corpus: one tuple for each lower-case symbol of the grammar."""

from __future__ import annotations


def _words(block: str) -> tuple[str, ...]:
    return tuple(word.replace("_", " ") for word in block.split())


NOUNS = _words(
    """lantern ladder basket blanket bottle bucket button candle carpet chair clock coin compass cup curtain
    drum envelope feather flag flute glove hammer handle hat helmet jacket jar kettle key kite knife lamp
    letter map mirror mug needle notebook oar package paddle painting pencil photograph pillow pipe plate
    pocket poster pot purse puzzle quilt radio ribbon ring rope saddle scarf shovel sign sled spoon stamp
    statue stone stool suitcase sword table teapot telescope tent ticket torch towel toy tray trumpet
    umbrella vase violin wagon wallet watch wheel whistle wreath bell broom bracelet camera cart chain
    crate crown diary doll easel fan gate globe harp hook medal net parcel pump quill raft razor saw scroll
    shield sponge string sundial tile trophy tub vest wand"""
)
PLURALS = _words(
    """apples boxes books boots barrels bricks cakes cards cups doors eggs fences flowers hats horses keys
    ladders lamps lemons letters loaves maps nails onions pans pears pigeons plates plums potatoes ribbons
    roofs ropes sacks seeds shelves shoes spoons stamps stones stoves sweaters tables tickets tiles tools
    towels trees walls windows wheels bolts cables candles coats crates drums engines filters gears helmets
    jars kettles lenses motors panels pipes pumps sails sheets springs tanks valves wires"""
)
ADJECTIVES = _words(
    """old small heavy quiet narrow bright broken clever cold curious damp dark dusty eager empty faint famous
    fancy fragile fresh gentle grand grey hidden hollow honest huge hungry icy large late lazy lonely long
    lost loud lucky merry mighty modest muddy nervous new noble odd pale patient plain polite proud quick
    rare rough round rusty sad secret sharp shiny short shy silent simple slow smooth soft solid sour steep
    stiff strange strong sturdy sudden sunny sweet swift tall tame thick thin tidy tiny tired warm wet wide
    wild wise wooden worn young"""
)
COLOURS = _words(
    """red blue green yellow white black brown orange purple pink golden silver crimson violet scarlet teal
    amber ivory copper olive"""
)
MATERIALS = _words(
    """wool cotton iron brass glass leather paper clay silk marble steel oak pine tin velvet straw stone linen
    wax bronze cedar felt slate bamboo"""
)
PLACES = _words(
    """park market harbour station library garden bakery bridge castle cellar church cinema clinic corner
    courtyard dock factory farm field forest fountain gallery garage hall hill hospital hotel island kitchen
    lake lighthouse meadow mill museum office orchard palace pier pond port quarry river road roof school
    shop shore square stable stadium street studio temple theatre tower tunnel valley village warehouse
    workshop yard zoo attic balcony barn beach cabin canal cave"""
)
ROLES = _words(
    """baker teacher doctor farmer sailor painter singer driver guard clerk judge mayor nurse pilot poet
    porter
    sailmaker scholar shepherd soldier student tailor trader waiter weaver writer barber builder butcher
    carpenter cook dancer engineer fisher gardener guide hunter inspector jeweller keeper lawyer librarian
    mason merchant miller miner neighbour officer plumber potter printer ranger reporter roofer surgeon
    stranger traveller visitor captain"""
)
ANIMALS = _words(
    """cat dog horse goat sheep crow owl fox hare mouse pony donkey duck goose swan otter badger beaver frog
    toad snake turtle parrot raven hawk eagle wolf bear deer mole"""
)
FOODS = _words(
    """bread soup cheese honey butter rice beans cabbage carrots garlic ginger pepper salt sugar flour milk
    cream tea coffee cider jam mustard vinegar raisins almonds barley oats lentils mushrooms spinach"""
)
TRANSITIVE = _words(
    """carried found lost painted repaired opened closed counted dropped lifted moved cleaned washed bought
    sold borrowed broke built burned caught chose collected covered cut decorated described designed drew
    examined filled fixed followed forgot guarded hid held inspected kept kicked locked measured mended missed
    noticed ordered packed polished pulled pushed reached recognised refused rented replaced rescued returned
    saved searched shook sketched smelled sorted split stole stored studied tested threw tied touched traded
    trimmed turned unfolded unlocked used visited wanted watched weighed wrapped"""
)
BASE = _words(
    """carry find paint repair open close count drop lift move clean wash buy sell borrow build catch collect
    cover cut decorate describe draw examine fill fix follow guard hide hold inspect keep kick lock measure
    mend order pack polish pull push reach rent replace return save sketch sort split store study test throw
    tie touch trade trim turn unlock use visit watch weigh wrap"""
)
INTRANSITIVE = _words(
    """waited slept laughed walked stood sat sang whistled paused argued arrived climbed coughed cried danced
    dreamed fell fished gathered hesitated hurried jumped knelt lingered listened marched nodded prayed rested
    ran sailed shivered shouted sighed smiled sneezed stumbled swam talked trembled wandered wept whispered
    worked yawned"""
)
ADVERBS = _words(
    """quietly slowly quickly gladly badly boldly bravely calmly carefully early eagerly easily fairly firmly
    gently happily kindly late loudly neatly often openly politely proudly rarely sadly safely secretly softly
    suddenly twice warmly"""
)
ABSTRACTS = _words(
    """weather price rent plan journey rumour harvest debt contract storm music promise accident budget delay
    election festival journal law lesson mistake noise permit recipe repair report reward rule schedule
    secret shortage speech strike tax theft traffic trial wages wedding"""
)
QUALITIES = _words("anger courage doubt envy fear grief hope joy luck pity pride regret relief shame skill wonder")
PREPOSITIONS = _words(
    """near behind beside under above across inside outside beyond below opposite around past along toward"""
)
WEEKDAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = _words("""January February March April May June July August September October November December""")
NUMBERS = _words("two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty")
SAID = _words("said thought explained claimed announced believed insisted guessed wrote admitted")
LINKS = _words("because although while until since before after unless whenever so")
CONNECTIVES = _words(
    """meanwhile later afterwards nevertheless eventually however instead therefore besides soon
    that_evening the_next_day at_noon once_again by_then at_last in_the_end for_years"""
)
IDENTIFIERS = _words(
    """index total value item name key path line row node count size limit buffer result start stop width
    height weight price score label token queue stack table cache offset left right parent child field
    message user order batch level step depth rate state group record entry source target window frame"""
)

TERMINALS: dict[str, tuple[str, ...]] = {
    "noun": NOUNS,
    "plural": PLURALS,
    "adj": ADJECTIVES,
    "colour": COLOURS,
    "material": MATERIALS,
    "place": PLACES,
    "role": ROLES,
    "animal": ANIMALS,
    "food": FOODS,
    "vt": TRANSITIVE,
    "base": BASE,
    "vi": INTRANSITIVE,
    "adv": ADVERBS,
    "abstract": ABSTRACTS,
    "quality": QUALITIES,
    "prep": PREPOSITIONS,
    "weekday": WEEKDAYS,
    "month": MONTHS,
    "number": NUMBERS,
    "said": SAID,
    "link": LINKS,
    "conn": CONNECTIVES,
    "ident": IDENTIFIERS,
}
"""Symbol -> the words it may become."""
