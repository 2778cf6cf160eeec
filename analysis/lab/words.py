"""The furniture of the world: plain word lists, before chance has dealt them out as facts."""

from typing import NamedTuple


class Weather(NamedTuple):
    """A kind of weather: noun, past-tense clause, adjective for a day, adjective for the air."""

    noun: str
    clause: str
    adjective: str
    air: str


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.replace("\n", ",").split(",") if word.strip()]


ITEMS = _words("""
    lantern, kettle, kite, drum, compass, ladder, basket, bell, mirror, umbrella, candlestick, teapot, wheelbarrow,
    hammer, whistle, spyglass, rope, map, walking stick, hat, scarf, violin bow, birdcage, music box, lockbox,
    door key, hourglass, jug, needle case, chess set, puppet, rocking horse, saddle, shovel, snow globe, spoon,
    thimble, trumpet, pocket watch, decoy duck, fishing rod, feather, fan, cork, garden gnome, horseshoe, ink bottle,
    letter opener, mask, moustache comb, nutcracker, boot jack, pepper mill, pillow, quilt, ring, shell, silk ribbon,
    sundial, tambourine, vase, weathercock, wig, pickle jar, paintbrush, oil can, magnet, footstool, egg cup, cushion,
    clay pipe, butter dish, bucket, apron, anchor, accordion
""")
ITEM_LOOKS = _words("""
    brass, cracked, painted, silver, wooden, tiny, enormous, rusty, green, red, striped, borrowed, old, glass, copper,
    crooked, blue, velvet, spotted, yellow, broken, new, heavy, ivory, second-hand, ugly, polished, purple, lucky,
    dented
""")

TRADES = [
    tuple(line.split("|"))
    for line in """baker|bakery|rolling pin|loaves|kneading dough
miller|mill|millstone|flour|grinding wheat
blacksmith|forge|anvil|horseshoes|hammering iron
weaver|weaving shed|loom|blankets|weaving wool
potter|pottery|wheel|bowls|throwing clay
carpenter|workshop|saw|cupboards|planing boards
fisher|harbour hut|net|herring|mending nets
beekeeper|bee garden|smoker|honey|minding hives
clockmaker|clock shop|tweezers|clocks|winding springs
tailor|tailor's shop|shears|waistcoats|cutting cloth
cobbler|cobbler's bench|awl|shoes|stitching soles
teacher|schoolhouse|chalk|good spelling|marking slates
doctor|surgery|thermometer|bitter medicine|listening to coughs
gardener|walled garden|hoe|cabbages|pulling weeds
shepherd|sheepfold|crook|wool|counting sheep
brewer|brewery|copper vat|brown ale|tasting ale
candle maker|candle works|wick cutter|candles|dipping wicks
glass blower|glass house|blowpipe|bottles|blowing glass
printer|printing house|press|almanacs|setting type
painter|studio|easel|portraits|mixing colours
sailor|harbour|sextant|tall stories|tying knots
ferryman|ferry landing|oar|wet passengers|rowing across
lamplighter|lamp store|long pole|light|lighting lamps
postmaster|post office|rubber stamp|late letters|sorting letters
librarian|library|paper knife|silence|shelving books
cheesemaker|dairy|cheese cloth|round cheeses|turning cheeses
hatter|hat shop|hat block|bonnets|steaming felt
roofer|slate yard|slate hammer|dry attics|climbing chimneys
piper|bandstand|bagpipe|loud marches|practising scales
judge|courthouse|gavel|long verdicts|settling quarrels
locksmith|lock shop|file|padlocks|cutting keys
rat catcher|cellar|trap|peace and quiet|chasing rats
well digger|dry field|spade|deep wells|digging holes
basket maker|willow barn|knife|baskets|bending willow
soap boiler|soap house|ladle|lavender soap|stirring fat
stonemason|stone yard|chisel|gravestones|carving stone
toymaker|toy shop|glue pot|wooden horses|carving dolls
apothecary|apothecary's shop|mortar|cough drops|grinding herbs
innkeeper|taproom|corkscrew|hot suppers|filling mugs
butcher|butcher's shop|cleaver|sausages|tying sausages
thatcher|straw loft|rake|thatched roofs|combing straw
stargazer|observatory|telescope|star charts|counting stars
bell ringer|bell tower|rope|noise|pulling ropes
chimney sweep|soot cellar|brush|clean flues|brushing flues
salt boiler|salt pan|iron pan|salt|boiling brine
cartwright|cart shed|mallet|wagons|fitting wheels
umbrella mender|umbrella stall|pliers|dry heads|straightening ribs
tax collector|counting house|ledger|receipts|adding numbers""".splitlines()
]

FEARS = _words("""
    geese, thunder, deep water, ladders, moths, the dark, goats, loud trumpets, empty houses, needles, owls,
    tall bridges, wet socks, spiders, mirrors, bulls, fog, strangers, puppets, horses, heights, eels,
    sneezing in public, wasps, cellars, cold soup, hiccups, old portraits, frogs, clowns, bats, long words, poetry,
    quicksand
""")
HABITS = _words("""
    talking to bees, wearing odd socks, humming at funerals, counting every stair, saving string,
    whistling in the rain, collecting spoons, laughing at the wrong moment, sleeping until noon,
    giving advice to horses, arguing with the weather, losing keys, telling the same joke twice, naming every chicken,
    reading backwards, eating soup with a fork, walking barefoot, forgetting birthdays, remembering every birthday,
    writing poems about turnips, singing to cabbages, waking before dawn, polishing door handles,
    keeping frogs in a bath, bowing to cats, betting on snails, painting fences at night, sneezing in threes,
    carrying three umbrellas, apologising to furniture, mending other people's gates, drawing maps on napkins,
    cheating at cards, winning at cards, dancing alone, borrowing ladders, inventing new knots, feeding crows,
    burning toast, climbing trees in a good coat, telling fortunes from tea leaves, never finishing a sentence,
    quoting proverbs, hiding biscuits, marching instead of walking, smelling of peppermint
""")
INSTRUMENTS = _words("""
    fiddle, flute, drum, harp, trumpet, accordion, bagpipe, cello, horn, lute, tambourine, oboe, whistle, banjo,
    organ, triangle
""")
LOOKS = _words("""
    red hair, black hair, a long grey beard, curly brown hair, a broken nose, very large ears,
    a gap between two teeth, freckles, a crooked smile, one green eye and one brown, enormous hands, a squeaky voice,
    a deep slow voice, round spectacles, silver hair, pale eyes, a limp, a very upright back, rosy cheeks,
    a tattoo of an anchor, thick eyebrows, a pointed chin
""")
PETS = _words("""
    cat, dog, goat, parrot, hedgehog, tortoise, duck, crow, ferret, rabbit, donkey, goose, mouse, snail, pig, owl
""")
PET_NAMES = _words("""
    Biscuit, Captain, Dumpling, Emperor, Fidget, Gravy, Hiccup, Inkblot, Jam, Kipper, Lady Turnip, Muddle, Noodle,
    Old Tom, Pudding, Quarrel, Rascal, Soot, Truffle, Uncle, Vinegar, Waffle, Button, Zigzag, Marmalade, Mustard,
    Pebble, Admiral, Crumb, Thunder, Buttercup, Professor, Sprout, Bandit, Duchess, Peppercorn
""")

LANDMARKS = _words("""
    clock tower, stone bridge, crooked chapel, giant chestnut tree, whale-bone arch, lighthouse, ruined castle,
    glass pavilion, statue of a goose, sunken garden, singing well, windmill, rope bridge, painted gatehouse,
    empty plinth, maze, hot spring, toll house, covered market, twisted column, stone circle, waterwheel,
    hanging bell, wall of doors, observatory, iron gate, floating theatre, cave of candles, dovecote, long staircase
""")
LANDMARK_TALES = _words("""
    was built on a bet, leans a little more each year, is said to be haunted by a tax collector,
    was paid for in cheese, has never been finished, was moved there by mistake, hums when the wind is from the east,
    is older than the town itself, was painted pink for a wedding and never painted back, is closed on windy days,
    was struck by lightning twice, belongs to nobody, was won in a card game, is guarded by an elderly swan,
    casts no shadow at noon, was designed by a child of six, sinks by an inch every winter, is visited by painters
""")
PRODUCTS = _words("""
    blue cheese, church bells, straw hats, smoked eels, oak barrels, red pottery, fine lace, sea salt, pear cider,
    copper pans, black pudding, fiddle strings, paper lanterns, sharp knives, mustard, tulips, wool socks,
    wooden clogs, plum brandy, ginger biscuits, roof tiles, marbles, felt slippers, apple butter, fishing nets,
    walnut oil, violet soap, kites, walking sticks, saffron
""")
WATERS = _words("""
    River Sallow, River Umber, River Wend, River Tock, Grey Lake, Lake Anselm, Heron Sea, Old Canal, Salt Bay,
    River Minnow, Black Tarn, Crane Marsh
""")
REGIONS = _words("""
    the Uplands, the Fens, the Western Isles, the Barrow Hills, the Lake Country, the Middle Shire, the Stony Valleys,
    the Vale of Oxen
""")
FESTIVALS = _words("""
    goose race, lantern parade, cheese rolling, feast of kites, mud regatta, turnip fair, night of drums, pancake war,
    scarecrow ball, great sneezing contest, egg hunt, raft race, honey fair, whistling contest, wheelbarrow derby,
    blessing of the boats, apple wassail, silent supper, puppet week, tug of war
""")
INN_HEADS = _words("Red, Sleepy, Laughing, Golden, Three-Legged, Silent, Drunken, Blind, Jolly, Wooden, Blue, Old")
INN_TAILS = _words("Goose, Anchor, Badger, Kettle, Miller, Salmon, Crown, Lantern, Bishop, Hen, Moon, Ploughman")

SPECIES_LOOKS = _words("""
    copper, marsh, dwarf, white-tailed, whistling, spotted, giant, mountain, ringed, moonlight, barking, river,
    crested, velvet, snow, ditch, painted, lazy
""")
SPECIES = _words("""
    finch, otter, hare, newt, heron, beetle, vole, squirrel, toad, wren, stoat, moth, pike, lizard, crane, mole,
    badger, swan, shrew, kestrel, deer, bat, trout, dormouse, crab
""")
HABITATS = _words("""
    reed beds, pine woods, old barns, hedgerows, cold streams, sea caves, chimneys, wet meadows, bogs, stone walls,
    orchards, salt marshes, church towers, beech woods, sand dunes, high moors, ditches, hollow logs
""")
ANIMAL_FOODS = _words("""
    snails, acorns, beetles, moss, small fish, fallen apples, earthworms, thistle seeds, eggs, candle wax, mushrooms,
    spiders, clover, pine nuts, frogspawn, bread crumbs
""")
ANIMAL_HABITS = _words("""
    sleeps standing up, steals buttons, can be heard a mile away, mates for life, changes colour in autumn,
    hides its food and forgets where, pretends to be dead, swims backwards, sings only before rain,
    builds its nest from wool, is easily bored, is afraid of its own shadow, lives for forty years,
    hunts by moonlight, digs very straight tunnels, follows ships, is fond of music, is never seen alone,
    throws stones at its enemies, sheds its tail when frightened
""")
COLOURS = _words("red, yellow, white, pale blue, violet, orange, pink, cream, dark green, scarlet")
PLANTS = _words("""
    wolfsbell, candlewort, goosefoot, sorrel, bitterleaf, moonmint, hare's ear, bog cotton, tansy, sleepyhead,
    ratsbane, fever grass, sailor's comfort, dragon thyme, beggar's lace, pennyleaf, old man's cress, stonebreak,
    honeycup, witch hazel, grandmother's thimble, milk parsley, foxtail, ditch lily, widow's sage, eyebright,
    kingsfoil, blue comfrey, snakeroot, mad parsnip
""")
PLANT_USES = _words("""
    coughs, toothache, bad dreams, sore feet, dyeing wool, keeping moths away, thickening soup, calming horses,
    hiccups, polishing brass, flavouring ale, bee stings, stuffing pillows, baldness, seasickness, stage fright
""")

FORMS = {
    "pie": "pie dish",
    "tart": "shallow tin",
    "soup": "iron pot",
    "stew": "clay pot",
    "pudding": "deep bowl",
    "cake": "round tin",
    "broth": "copper pan",
    "loaf": "long tin",
    "hash": "frying pan",
    "dumpling": "wide pan",
    "pickle": "stone jar",
    "fritter": "skillet",
}
COUNTED = {
    "onion": "onions",
    "leek": "leeks",
    "egg": "eggs",
    "apple": "apples",
    "plum": "plums",
    "turnip": "turnips",
    "carrot": "carrots",
    "walnut": "walnuts",
    "mushroom": "mushrooms",
    "pear": "pears",
    "potato": "potatoes",
    "herring": "herrings",
    "fig": "figs",
    "chestnut": "chestnuts",
    "beetroot": "beetroots",
    "quince": "quinces",
    "radish": "radishes",
    "sausage": "sausages",
    "lemon": "lemons",
    "cabbage": "cabbages",
}
MEASURED = {
    "flour": "cup",
    "honey": "spoon",
    "butter": "knob",
    "milk": "jug",
    "salt": "pinch",
    "pepper": "pinch",
    "oats": "handful",
    "cream": "cup",
    "mustard": "spoon",
    "vinegar": "splash",
    "ale": "mug",
    "rice": "cup",
    "barley": "handful",
    "parsley": "bunch",
    "thyme": "sprig",
    "ginger": "pinch",
    "sugar": "spoon",
    "nutmeg": "pinch",
    "lard": "lump",
    "cider": "cup",
}
BOOK_HEADS = _words("""
    A History of, The Secret of, Notes on, A Short Guide to, Songs about, In Praise of, Against, The Last of,
    Forty Years of, A Child's Book of, The Truth about, Letters on
""")
BOOK_TOPICS = _words("""
    the Tides, Geese, Bread, Silence, Bridges, the Moon, Turnips, Good Manners, Sleep, Mud, the Wind, Cheese, Ghosts,
    Knots, Left-Handed People, Rain, Lost Umbrellas, Honey, Small Islands, Clocks, Aunts, Winter, Falling Over, Taxes
""")
SHIP_HEADS = _words("""
    Merry, Patient, Northern, Faithful, Leaking, Proud, Little, Stubborn, Silver, Hopeful, Second, Restless
""")
SHIP_TAILS = _words(
    "Widow, Pelican, Sister, Turnip, Star, Albatross, Bargain, Mermaid, Promise, Lobster, Duchess, Breeze"
)
CARGOES = _words("""
    salt, oranges, timber, wool, pepper, roof slates, tea, coal, lamp oil, glass beads, wine, pianos, cheese, rope
""")
WEATHERS = [
    Weather(*line.split("|"))
    for line in """rain|it rained|rainy|wet
fog|fog lay over the roofs|foggy|grey
sunshine|the sun shone|sunny|warm
wind|the wind blew hard|windy|wild
snow|snow was falling|snowy|white
frost|there was frost on the grass|frosty|sharp
hail|hail rattled on the windows|stormy|loud
drizzle|a thin drizzle fell|damp|dull""".splitlines()
]
SPOTS = _words("""
    market square, old bridge, churchyard, riverbank, orchard, bathhouse, hay barn, town pump, bandstand, woodshed,
    village green, boathouse, stable, smokehouse, duck pond, quarry, crossroads, bell tower
""")
HIDES = _words("""
    under a loose stone, behind a barrel, inside a hollow tree, under a pile of sacks, on a high beam,
    in an empty beehive, behind the noticeboard, beneath the steps, in a flour bin, under an upturned boat
""")
