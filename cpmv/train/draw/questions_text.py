"""Wordings of the questions about text documents: pages, receipts and product labels. See `questions.py`."""

from __future__ import annotations

from .prompts import READ

PAGES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "page_read": READ,
    "page_heading": (
        (
            "What is the heading?", "Read the heading.", "What is the title of this page?", "Title?",
            "Give the heading only.", "Which title does the page have?", "Please read the title.",
            "What does the headline say?", "Write down the heading.", "What is this page called?",
            "Name the title of the document.", "Copy the headline.", "Heading, exactly as printed?",
        ),
        (
            "标题是什么？", "请读出标题。", "这一页的题目是什么？", "写出标题。", "标题写了什么？", "只读标题。",
            "文章的标题是？",
        ),
    ),
    "page_line": (
        (
            "What does the {0} line say?", "Read line {1}.", "Read the {0} line.", "Line {1}?",
            "Please transcribe line {1}.", "What is written in line {1}?", "Give me the {0} line of text.",
            "Copy line {1} exactly.", "Text of line {1}:", "Which words are in the {0} line?",
            "Write down the {0} line only.", "Could you read the {0} line?", "Line number {1}, please.",
        ),
        (
            "第{1}行写了什么？", "请读出第{1}行。", "读第{1}行。", "第{1}行的文字是什么？", "写出第{1}行的内容。",
            "只要第{1}行。",
        ),
    ),
    "page_last_line": (
        (
            "What does the last line say?", "Read the last line.", "Last line?", "Give me the final line.",
            "What is written at the very end?", "Please read the bottom line.", "Copy the last line.",
            "Which text is in the last line?", "Transcribe the final line.", "How does the text end? Last line only.",
            "Write down the last line.", "Could you read the last line for me?",
        ),
        (
            "最后一行写了什么？", "请读出最后一行。", "读最后一行。", "最后一行的文字是什么？", "写出最后一行。",
            "最下面一行是什么？",
        ),
    ),
    "page_paragraph": (
        (
            "What does the {0} paragraph say?", "Read paragraph {1}.", "Read the {0} paragraph.", "Paragraph {1}?",
            "Please transcribe the {0} paragraph.", "Give me the text of paragraph {1}.",
            "Copy the {0} paragraph, line by line.", "What is written in paragraph {1}?",
            "Write down the {0} paragraph.", "Transcribe only paragraph {1}.", "Text of the {0} paragraph, please.",
            "Could you read the {0} paragraph?",
        ),
        (
            "第{1}段写了什么？", "请读出第{1}段。", "读第{1}段。", "第{1}段的内容是什么？", "写出第{1}段的文字。",
            "只读第{1}段。",
        ),
    ),
    "page_value": (
        (
            "What is the {0}?", "{0}?", "Which {0} is given?", "Find the {0}.", "Please give the {0}.",
            "What does it say after {0}?", "What stands next to {0}?", "Read the value of {0}.", "Look up: {0}.",
            "What is written for {0}?", "Tell me the {0}.", "{0} = ?", "Give only the {0}.",
        ),
        (
            "{0}是什么？", "{0}？", "请找出{0}。", "{0}写的是什么？", "{0}后面写了什么？", "请写出{0}。",
            "查一下{0}。",
        ),
    ),
    "page_item": (
        (
            "What is the {0} item of the list?", "Read item {1}.", "Item {1}?", "Which entry comes {0}?",
            "What does point {1} say?", "Give me the {0} entry.", "Read the {0} point of the list.",
            "What is number {1} on the list?", "Copy list item {1}.", "Please read entry {1}.",
            "Write down the {0} list item.", "Name the {0} thing on the list.",
        ),
        (
            "列表的第{1}项是什么？", "第{1}项？", "请读出第{1}项。", "第{1}条写了什么？", "写出第{1}条。",
            "清单上第{1}个是什么？",
        ),
    ),
    "page_section": (
        (
            'What is written under "{0}"?', "Read the text below {0}.", "What does the section {0} say?",
            "Give me the section {0}.", "Transcribe the part under {0}.", "Section {0}?",
            "Please read what stands under {0}.", "Copy the text of {0}.", "Text under the heading {0}:",
            "Which text follows the heading {0}?", "Read only the section {0}.", "What does the part called {0} say?",
        ),
        (
            "《{0}》下面写了什么？", "请读出{0}这一部分。", "{0}这一节的内容是什么？", "写出{0}下面的文字。",
            "读{0}这一段。", "只要{0}部分的文字。",
        ),
    ),
    "page_framed": (
        (
            "Read the framed text.", "What is in the frame?", "What does the box say?", "Read the text in the box.",
            "Which text is framed?", "Framed text?", "Copy what is inside the frame.",
            "Please read the marked region.", "Transcribe the boxed part.", "What is written inside the rectangle?",
            "Give only the text within the frame.", "Read the outlined words.", "Text in the marked box:",
        ),
        (
            "请读出方框里的文字。", "框里写了什么？", "方框中的文字是什么？", "读框内的文字。", "写出框出的文字。",
            "框起来的是什么字？",
        ),
    ),
    "page_count_lines": (
        (
            "How many lines of text are there?", "Count the lines.", "How many lines do you see?", "Number of lines?",
            "How many lines does the text have?", "Please count the text lines.", "What is the number of lines?",
            "How many rows of text are on the page?", "Give the line count.", "Tell me how many lines there are.",
            "Lines in total?", "How many printed lines can you count?",
        ),
        (
            "一共有几行字？", "图中有多少行文字？", "数一数有几行。", "文字有几行？", "总行数是多少？",
            "请数出行数。",
        ),
    ),
}  # fmt: skip

RECEIPTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "receipt_total": (
        (
            "What is the total?", "Total?", "What is the total amount?", "How much is the total?",
            "How much was it in all?", "Read the total of the receipt.", "What sum had to be paid?",
            "Give the grand total.", "Please find the total.", "Amount due?", "What is the final amount?",
            "Tell me the total, with the currency as printed.", "How much did everything cost?", "Total only:",
        ),
        (
            "总额是多少？", "合计多少？", "一共多少钱？", "总计？", "请写出总金额。", "这张收据的总额是多少？",
            "一共要给多少钱？",
        ),
    ),
    "receipt_subtotal": (
        (
            "What is the subtotal?", "Subtotal?", "How much before tax?", "Give the subtotal.",
            "What is the sum before tax?", "Read the subtotal.", "Please find the subtotal.",
            "What amount is given without tax?", "Net amount?", "Subtotal only, please.",
            "How much are the goods before tax?", "Tell me the subtotal.",
        ),
        (
            "小计是多少？", "小计？", "请写出小计。", "不含税是多少？", "税前金额是多少？", "读出小计。",
        ),
    ),
    "receipt_tax": (
        (
            "How much is the tax?", "Tax?", "What is the tax amount?", "Give the tax.", "How much tax was paid?",
            "Read the tax line.", "What does the tax come to?", "Please find the tax.", "Amount of tax?",
            "How much VAT is there?", "Tell me the tax.", "Tax only:",
        ),
        (
            "税是多少？", "税额？", "税额是多少？", "请写出税额。", "交了多少税？", "读出税额。",
        ),
    ),
    "receipt_price": (
        (
            "How much is the {0}?", "What does the {0} cost?", "Price of {0}?", "What is the price of {0}?",
            "{0}: price?", "Find the price of {0}.", "Please give the price of {0}.", "How much was {0}?",
            "What did they pay for {0}?", "Read the price next to {0}.", "Cost of {0}?", "Tell me what {0} costs.",
        ),
        (
            "{0}多少钱？", "{0}的价格是多少？", "{0}？价格？", "请写出{0}的价格。", "买{0}用了多少钱？",
            "{0}的金额是多少？",
        ),
    ),
    "receipt_paid": (
        (
            "How much cash was given?", "Cash?", "What amount was paid?", "How much did the customer hand over?",
            "Read the cash line.", "Cash given?", "How much money was tendered?", "Please give the cash amount.",
            "What was paid in cash?", "Amount of cash?", "Tell me the cash amount.", "Give the amount tendered.",
        ),
        (
            "收了多少现金？", "现金？", "现金是多少？", "给了多少现金？", "请写出现金金额。", "读出现金这一行。",
        ),
    ),
    "receipt_change": (
        (
            "How much change was returned?", "Change?", "What is the change?", "How much did they get back?",
            "Read the change.", "Please give the change.", "Change given back?", "How much money came back?",
            "What change is printed?", "Tell me the change.", "Amount of change?", "Give only the change.",
        ),
        (
            "找零是多少？", "找零？", "找回多少钱？", "请写出找零。", "找了多少钱？", "读出找零金额。",
        ),
    ),
    "receipt_date": (
        (
            "What is the date?", "Date?", "When was this bought?", "Which date is printed?", "Give the date.",
            "Read the date of the receipt.", "On which day was the purchase?", "Please find the date.",
            "Date of purchase?", "What day is on the receipt?", "Tell me the date as printed.",
            "When was the purchase made?",
        ),
        (
            "日期是什么？", "日期？", "哪一天买的？", "请写出日期。", "收据上的日期是什么？", "是什么时候买的？",
        ),
    ),
    "receipt_shop": (
        (
            "Which shop is it?", "What is the name of the shop?", "Shop?", "Where was this bought?",
            "Who issued the receipt?", "Give the store name.", "What store is this from?", "Read the shop name.",
            "Name of the store?", "Please give the name of the shop.", "Which store printed it?",
            "Which business is on the receipt?",
        ),
        (
            "是哪家店？", "店名是什么？", "店名？", "请写出店名。", "在哪里买的？", "商店叫什么？",
        ),
    ),
    "receipt_count": (
        (
            "How many items were bought?", "How many items are listed?", "Count the items.", "Number of items?",
            "How many different items are there?", "How many products are on the receipt?",
            "How many things did they buy?", "Please count the listed items.", "Items in total?",
            "How many lines of goods are there?", "What is the number of items?",
            "Tell me how many items are listed.",
        ),
        (
            "买了几样东西？", "有几种商品？", "数一数有几项商品。", "商品有几种？", "一共列了几样？",
            "收据上有几项？",
        ),
    ),
    "receipt_dearest": (
        (
            "Which item is the most expensive?", "What cost the most?", "Most expensive item?",
            "Name the dearest item.", "Which item has the highest price?", "What is the most expensive thing?",
            "Which product costs most?", "Find the item with the highest price.", "Highest price: which item?",
            "Tell me the most expensive item.", "What was the most costly item?", "Please name the priciest item.",
        ),
        (
            "最贵的是什么？", "哪样最贵？", "最贵的商品？", "价格最高的是哪一项？", "请写出最贵的商品。",
            "哪种商品的价格最高？",
        ),
    ),
    "receipt_read": (
        (
            "Read the receipt.", "Transcribe the whole receipt.",
            "Write out everything on the receipt, line by line.", "What is printed on this receipt?",
            "Copy the receipt.", "Give the full text of the receipt.", "OCR the receipt.",
            "Please read all lines of the receipt.", "All text, line by line.", "Type out the receipt.",
            "What does the receipt say?", "Read everything, one line at a time.",
        ),
        (
            "请读出整张收据。", "收据上写了什么？", "读收据。", "请逐行写出收据的内容。", "写出全部文字。",
            "识别整张收据。",
        ),
    ),
}  # fmt: skip

LABELS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "production_date": (
        (
            "production date", "What is the production date?", "Production date?", "When was it produced?",
            "When was this made?", "Find the production date.", "Date of manufacture?",
            "Please give the production date.", "What is the manufacturing date?", "On which day was it made?",
            "Read the date of production.", "Extract the production date.", "MFG date?",
            "Give only the production date.", "Tell me when it was manufactured.",
        ),
        (
            "生产日期", "生产日期是什么？", "生产日期？", "什么时候生产的？", "请写出生产日期。", "找出生产日期。",
            "哪一天生产的？", "请只写生产日期。",
        ),
    ),
    "expiry_date": (
        (
            "What is the expiry date?", "Expiry date?", "When does it expire?", "Until when is it good?",
            "Best before when?", "Find the expiration date.", "Please give the best-before date.", "Use by?",
            "How long can it be used? Give the date.", "Read the expiry date.", "Extract the expiry date.",
            "Tell me the date it expires.",
        ),
        (
            "有效期到哪一天？", "有效期？", "什么时候过期？", "请写出有效期。", "到期日是哪天？", "找出有效期。",
        ),
    ),
    "lot_number": (
        (
            "What is the lot number?", "Lot?", "Lot number?", "Which batch is it?", "Read the lot number.",
            "Find the batch code.", "Please give the lot number.", "What is the batch number?", "Batch?",
            "Extract the lot.", "Which lot is printed?", "Tell me the lot code.",
        ),
        (
            "批号是什么？", "批号？", "请写出批号。", "找出批号。", "是哪一批？", "读出批号。",
        ),
    ),
    "product_name": (
        (
            "What product is it?", "Product?", "What is the product called?", "Name of the product?",
            "Which product is this label for?", "Read the product name.", "Please name the product.",
            "What is in the package?", "What does this label belong to?", "Give the product name.",
            "Tell me the name of the product.", "Which article is it?",
        ),
        (
            "这是什么产品？", "产品？", "产品名称是什么？", "请写出产品名。", "产品叫什么？", "读出产品名称。",
        ),
    ),
    "net_weight": (
        (
            "What is the net weight?", "Net weight?", "How much does it contain?", "How much is in it?",
            "Read the net content.", "What quantity is in the pack?", "Please give the net weight.", "Contents?",
            "Give the amount in the package.", "How heavy is it?", "What size is the pack?",
            "Tell me the net content.",
        ),
        (
            "含量是多少？", "含量？", "有多重？", "请写出含量。", "里面有多少？", "读出含量。",
        ),
    ),
    "label_read": (
        (
            "Read the label.", "What is printed on the label?", "Transcribe the label.", "All text on the label?",
            "Copy the label line by line.", "What does the label say?", "Please read the whole label.",
            "Write out the label.", "Give the full text of the label.", "OCR this label.",
            "Type out everything on the label.", "Read all lines of the label.",
        ),
        (
            "请读出标签。", "标签上写了什么？", "读标签。", "写出标签上的全部文字。", "识别标签。",
            "请逐行读出标签内容。",
        ),
    ),
}  # fmt: skip
