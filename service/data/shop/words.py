"""What the synthetic shop sells: departments with their brands, categories as journeys, kinds of variants.

The products of a category stand in the order in which people come to want them: a grinder before a kettle, a
kettle before a dripper, filters when the dripper is there. So do the categories of a department.
"""

from typing import NamedTuple


class Product(NamedTuple):
    """A kind of thing: its shelf, what it is called, a usual price, and how its variants differ."""

    shelf: str
    noun: str
    price: float
    kind: str


VARIANTS: dict[str, tuple[str, ...]] = {
    "finish": ("Matte Black", "Brushed Steel", "Copper", "Warm White", "Slate Grey", "Olive"),
    "colour": ("Indigo", "Moss Green", "Terracotta", "Oatmeal", "Charcoal", "Sky Blue"),
    "wood": ("Oak", "Walnut", "Beech", "Ash", "Bamboo", "Cherry"),
    "size": ("Small", "Medium", "Large", "Extra Large", "Slim", "Wide"),
    "pack": ("Single", "Pack of 2", "Pack of 3", "Pack of 5", "Pack of 10", "Value Pack"),
    "scent": ("Lavender", "Cedarwood", "Bergamot", "Sea Salt", "Fig", "Unscented"),
    "taste": ("Classic", "Mild", "Rich", "Spiced", "Citrus", "Winter Blend"),
}

BRANDS: dict[str, tuple[str, ...]] = {
    "Kitchen": ("Alder & Finch", "Hearthlow", "Copperwick", "Maison Brume", "Tarn & Table", "Oatfield"),
    "Office": ("Quillworth", "Northmere", "Ledger & Line", "Foldhaus", "Grayle", "Inkling Row"),
    "Outdoors": ("Kestrel Ridge", "Brackenfell", "Tramontane", "Coldwater Pass", "Havn", "Otterstone"),
    "Home": ("Linden House", "Softholm", "Wickery", "Marlowe & Moss", "Dunmere", "Palecloud"),
    "Garden": ("Thistledown", "Potter's Yard", "Greenhithe", "Rook & Robin", "Loamy", "Summerhay"),
    "Pets": ("Waggery", "Furlong & Co", "Tailwood", "Purrington", "Mossy Paw", "Burrow & Bone"),
    "Craft": (
        "Woolgather",
        "Threadneedle Lane",
        "Pigment & Co",
        "Bobbin Hill",
        "Clayfoot",
        "Halfmoon Studio",
    ),
    "Beauty": ("Saltmarsh", "Verbena Row", "Petal & Pine", "Nimbue", "Lockwell", "Barrowby"),
}

_CATEGORIES = """
Kitchen/Coffee: Grinders=Burr Coffee Grinder 69 finish; Kettles=Gooseneck Kettle 54 finish;
  Drippers=Pour-Over Dripper 24 finish; Filters=Unbleached Coffee Filters 6 pack;
  Mugs=Stoneware Coffee Mug 14 colour
Kitchen/Tea: Teapots=Cast Iron Teapot 48 finish; Infusers=Fine Mesh Tea Infuser 11 finish;
  Leaf Tea=Loose Leaf Black Tea 12 taste; Caddies=Airtight Tea Caddy 16 colour;
  Cups=Porcelain Tea Cup 13 colour
Kitchen/Baking: Scales=Digital Kitchen Scale 29 finish; Bowls=Nesting Mixing Bowls 34 colour;
  Tins=Non-Stick Loaf Tin 15 size; Mats=Silicone Baking Mat 12 pack; Stands=Footed Cake Stand 31 wood
Kitchen/Cookware: Skillets=Cast Iron Skillet 52 size; Saucepans=Lidded Saucepan 46 finish;
  Casseroles=Enamelled Casserole 98 colour; Spatulas=Slotted Spatula 12 wood; Racks=Pan Lid Rack 22 wood
Office/Writing: Pens=Fountain Pen 38 finish; Ink=Bottled Ink 12 colour;
  Notebooks=Dot Grid Notebook 16 colour; Cases=Roll-Up Pen Case 24 colour;
  Blotting=Blotting Paper 6 pack
Office/Desk: Lamps=Dimmable Desk Lamp 59 finish; Risers=Monitor Riser 44 wood;
  Mats=Felt Desk Mat 27 colour; Trays=Letter Tray 23 wood; Cables=Cable Organiser 11 colour
Office/Filing: Binders=Ring Binder 9 colour; Dividers=Index Dividers 5 pack;
  Sleeves=Clear Sheet Protectors 8 pack; Labels=Handheld Label Maker 36 finish;
  Boxes=Archive Storage Box 13 size
Office/Calls: Headsets=Noise-Cancelling Headset 119 finish; Webcams=Wide-Angle Webcam 74 finish;
  Lights=Clip-On Ring Light 28 finish; Stands=Folding Laptop Stand 39 finish; Hubs=USB-C Hub 45 finish
Outdoors/Hiking: Boots=Waterproof Hiking Boots 139 size; Socks=Merino Hiking Socks 18 colour;
  Packs=Ventilated Daypack 84 colour; Poles=Folding Trekking Poles 66 finish;
  Bottles=Insulated Flask 29 colour
Outdoors/Camping: Tents=Two-Person Tent 229 colour; Bags=Down Sleeping Bag 159 size;
  Mats=Self-Inflating Mat 69 size; Stoves=Compact Gas Stove 49 finish;
  Lanterns=Rechargeable Lantern 36 finish
Outdoors/Cycling: Helmets=Commuter Bike Helmet 64 colour; Lights=Bike Light Set 32 pack;
  Panniers=Roll-Top Pannier 72 colour; Pumps=Floor Pump 41 finish; Care=Chain Lubricant 10 pack
Outdoors/Running: Shoes=Trail Running Shoes 112 size; Socks=Cushioned Running Socks 14 colour;
  Vests=Hydration Vest 88 size; Caps=Lightweight Running Cap 22 colour; Recovery=Foam Roller 26 size
Home/Bedding: Duvets=All-Season Duvet 94 size; Covers=Linen Duvet Cover 109 colour;
  Sheets=Cotton Fitted Sheet 42 colour; Pillows=Feather Pillow 37 size;
  Throws=Waffle Knit Throw 48 colour
Home/Bath: Towels=Organic Bath Towel 26 colour; Mats=Quick-Dry Bath Mat 24 colour;
  Trays=Bath Caddy Tray 35 wood; Soaps=Handmade Soap Bar 7 scent; Robes=Waffle Bath Robe 64 size
Home/Candles: Candles=Soy Wax Candle 21 scent; Diffusers=Reed Diffuser 28 scent;
  Holders=Taper Candle Holder 19 finish; Snuffers=Wick Trimmer 13 finish;
  Matches=Long Safety Matches 6 pack
Home/Lighting: Lamps=Ceramic Table Lamp 72 colour; Shades=Pleated Lamp Shade 34 colour;
  Bulbs=Filament Bulb 8 pack; Pendants=Woven Pendant Light 89 size; Dimmers=Plug-In Dimmer 18 finish
Garden/Planting: Pots=Glazed Plant Pot 23 colour; Compost=Peat-Free Compost 12 size;
  Seeds=Wildflower Seed Mix 5 pack; Cans=Long-Spout Watering Can 29 finish;
  Labels=Slate Plant Labels 9 pack
Garden/Tools: Secateurs=Bypass Secateurs 32 finish; Trowels=Hand Trowel 17 wood;
  Gloves=Thornproof Gloves 19 size; Forks=Border Fork 44 wood; Trugs=Garden Trug 38 wood
Garden/Birds: Feeders=Hanging Bird Feeder 24 finish; Food=Sunflower Heart Bird Food 14 pack;
  Boxes=Nest Box 27 wood; Baths=Pedestal Bird Bath 58 finish; Cameras=Nest Box Camera 89 finish
Garden/Patio: Chairs=Folding Patio Chair 69 colour; Tables=Slatted Bistro Table 99 wood;
  Cushions=Outdoor Cushion 26 colour; Parasols=Tilting Parasol 84 colour;
  Lights=Solar Festoon Lights 33 size
Pets/Dogs: Collars=Leather Dog Collar 24 colour; Leads=Rope Dog Lead 22 colour;
  Beds=Orthopaedic Dog Bed 79 size; Bowls=Raised Dog Bowl 27 finish;
  Treats=Grain-Free Dog Treats 8 taste
Pets/Cats: Scratchers=Sisal Scratching Post 46 size; Beds=Felt Cat Cave 42 colour;
  Toys=Feather Wand Toy 9 pack; Fountains=Cat Water Fountain 38 finish;
  Treats=Freeze-Dried Cat Treats 7 taste
Pets/Aquarium: Tanks=Glass Aquarium 119 size; Filters=Sponge Filter 19 size;
  Lights=Planted Tank Light 49 size; Gravel=Natural Aquarium Gravel 15 colour;
  Food=Slow-Sinking Fish Food 8 pack
Pets/Rabbits: Hutches=Two-Storey Hutch 149 wood; Hay=Timothy Hay 11 pack;
  Tunnels=Willow Play Tunnel 18 size; Bottles=No-Drip Water Bottle 10 size;
  Brushes=Soft Grooming Brush 12 wood
Craft/Knitting: Needles=Circular Knitting Needles 16 wood; Yarn=Merino Aran Yarn 11 colour;
  Markers=Stitch Marker Set 7 pack; Bags=Project Bag 27 colour; Blocking=Blocking Mats 24 pack
Craft/Painting: Sets=Watercolour Paint Set 42 size; Brushes=Round Brush Set 23 wood;
  Paper=Cold-Pressed Paper Pad 18 size; Palettes=Folding Palette 14 finish;
  Easels=Tabletop Easel 39 wood
Craft/Sewing: Shears=Dressmaking Shears 34 finish; Fabric=Cotton Lawn Fabric 15 colour;
  Thread=Polyester Thread Set 17 colour; Pins=Glass Head Pins 6 pack;
  Baskets=Lidded Sewing Basket 41 colour
Craft/Pottery: Clay=Air-Dry Clay 13 size; Tools=Clay Modelling Tools 19 wood;
  Glazes=Brush-On Glaze 12 colour; Wheels=Tabletop Turntable 46 size; Aprons=Split-Leg Apron 37 colour
Beauty/Hair: Shampoos=Gentle Shampoo 12 scent; Conditioners=Repair Conditioner 13 scent;
  Masks=Overnight Hair Mask 18 scent; Brushes=Detangling Brush 15 colour;
  Dryers=Ionic Hair Dryer 84 finish
Beauty/Skin: Cleansers=Oat Milk Cleanser 16 scent; Toners=Rose Water Toner 15 scent;
  Serums=Vitamin C Serum 29 size; Creams=Daily Face Cream 24 scent; Sunscreens=Mineral Sunscreen 19 size
Beauty/Shaving: Razors=Safety Razor 36 finish; Blades=Double-Edge Blades 9 pack;
  Creams=Shaving Cream 13 scent; Brushes=Synthetic Shaving Brush 22 wood; Balms=Aftershave Balm 17 scent
Beauty/Body: Oils=Dry Body Oil 23 scent; Scrubs=Sugar Body Scrub 19 scent;
  Lotions=Shea Body Lotion 16 scent; Mitts=Exfoliating Mitt 8 colour; Hands=Hand Cream 11 scent
"""


class Category(NamedTuple):
    """A place in the tree with its products, in the order of the journey."""

    department: str
    name: str
    products: tuple[Product, ...]


def _product(text: str) -> Product:
    shelf, rest = text.strip().split("=")
    noun, price, kind = rest.rsplit(" ", 2)
    return Product(shelf, noun, float(price), kind)


def _categories() -> tuple[Category, ...]:
    found = []
    for entry in _CATEGORIES.strip().replace("\n  ", " ").splitlines():
        place, products = entry.split(": ")
        department, name = place.split("/")
        found.append(Category(department, name, tuple(_product(text) for text in products.split(";"))))
    return tuple(found)


CATEGORIES = _categories()
"""All categories; those of one department stand together."""
