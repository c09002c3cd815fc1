"""What the name of a column says of its numbers."""

import re

# They count or measure, and so have an order.
MEASURES = re.compile(
    r"(?:.*_)?(age|amount|avg|balance|bid|budget|clicks|cnt|cost|count|days|distance|duration|height|hours|impressions|"
    r"income|length|max|mean|min|minutes|num|percent|price|qty|quantity|rank|rate|ratio|revenue|salary|sales|score|"
    r"seconds|size|stock|sum|total|value|views|weight|width|year|years)(?:_.*)?"
)
# They name a thing, and so have none.
IDS = re.compile(
    r"(?:.*_)?(ad|advertiser|app|brand|browser|campaign|cat\d*|category|city|code|country|creative|customer|device|domain|"
    r"hash|id|ids|ip|item|key|kind|member|os|page|product|publisher|query|region|search|segment|seller|session|shop|site|"
    r"sku|state|store|type|uid|user|visitor|zip\w*)(?:_.*)?"
)
