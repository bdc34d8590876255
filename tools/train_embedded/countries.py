"""Countries, their capitals and continents, in English and Chinese."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Country:
    """A country: names, capital and continent in both languages."""

    en: str
    zh: str
    capital_en: str
    capital_zh: str
    continent_en: str
    continent_zh: str


_CONTINENTS = {
    "Asia": "亚洲", "Europe": "欧洲", "Africa": "非洲", "North America": "北美洲",
    "South America": "南美洲", "Oceania": "大洋洲",
}  # fmt: skip

_ROWS = """
China 中国 Beijing 北京 Asia|Japan 日本 Tokyo 东京 Asia|South Korea 韩国 Seoul 首尔 Asia
North Korea 朝鲜 Pyongyang 平壤 Asia|Mongolia 蒙古 Ulaanbaatar 乌兰巴托 Asia|Vietnam 越南 Hanoi 河内 Asia
Thailand 泰国 Bangkok 曼谷 Asia|Laos 老挝 Vientiane 万象 Asia|Cambodia 柬埔寨 Phnom Penh 金边 Asia
Malaysia 马来西亚 Kuala Lumpur 吉隆坡 Asia|the Philippines 菲律宾 Manila 马尼拉 Asia
India 印度 New Delhi 新德里 Asia|Pakistan 巴基斯坦 Islamabad 伊斯兰堡 Asia|Nepal 尼泊尔 Kathmandu 加德满都 Asia
Bangladesh 孟加拉国 Dhaka 达卡 Asia|Afghanistan 阿富汗 Kabul 喀布尔 Asia|Iran 伊朗 Tehran 德黑兰 Asia
Iraq 伊拉克 Baghdad 巴格达 Asia|Syria 叙利亚 Damascus 大马士革 Asia|Lebanon 黎巴嫩 Beirut 贝鲁特 Asia
Jordan 约旦 Amman 安曼 Asia|Saudi Arabia 沙特阿拉伯 Riyadh 利雅得 Asia|Qatar 卡塔尔 Doha 多哈 Asia
Oman 阿曼 Muscat 马斯喀特 Asia|Turkey 土耳其 Ankara 安卡拉 Asia|Uzbekistan 乌兹别克斯坦 Tashkent 塔什干 Asia
Kazakhstan 哈萨克斯坦 Astana 阿斯塔纳 Asia|Georgia 格鲁吉亚 Tbilisi 第比利斯 Asia
Armenia 亚美尼亚 Yerevan 埃里温 Asia|Azerbaijan 阿塞拜疆 Baku 巴库 Asia|France 法国 Paris 巴黎 Europe
Germany 德国 Berlin 柏林 Europe|Italy 意大利 Rome 罗马 Europe|Spain 西班牙 Madrid 马德里 Europe
Portugal 葡萄牙 Lisbon 里斯本 Europe|the United Kingdom 英国 London 伦敦 Europe|Ireland 爱尔兰 Dublin 都柏林 Europe
the Netherlands 荷兰 Amsterdam 阿姆斯特丹 Europe|Belgium 比利时 Brussels 布鲁塞尔 Europe
Switzerland 瑞士 Bern 伯尔尼 Europe|Austria 奥地利 Vienna 维也纳 Europe|Poland 波兰 Warsaw 华沙 Europe
Hungary 匈牙利 Budapest 布达佩斯 Europe|Romania 罗马尼亚 Bucharest 布加勒斯特 Europe
Bulgaria 保加利亚 Sofia 索非亚 Europe|Greece 希腊 Athens 雅典 Europe|Serbia 塞尔维亚 Belgrade 贝尔格莱德 Europe
Croatia 克罗地亚 Zagreb 萨格勒布 Europe|Slovakia 斯洛伐克 Bratislava 布拉迪斯拉发 Europe
Slovenia 斯洛文尼亚 Ljubljana 卢布尔雅那 Europe|Albania 阿尔巴尼亚 Tirana 地拉那 Europe
Sweden 瑞典 Stockholm 斯德哥尔摩 Europe|Norway 挪威 Oslo 奥斯陆 Europe|Denmark 丹麦 Copenhagen 哥本哈根 Europe
Finland 芬兰 Helsinki 赫尔辛基 Europe|Iceland 冰岛 Reykjavik 雷克雅未克 Europe|Estonia 爱沙尼亚 Tallinn 塔林 Europe
Latvia 拉脱维亚 Riga 里加 Europe|Lithuania 立陶宛 Vilnius 维尔纽斯 Europe|Russia 俄罗斯 Moscow 莫斯科 Europe
Ukraine 乌克兰 Kyiv 基辅 Europe|Belarus 白俄罗斯 Minsk 明斯克 Europe|Malta 马耳他 Valletta 瓦莱塔 Europe
Egypt 埃及 Cairo 开罗 Africa|Libya 利比亚 Tripoli 的黎波里 Africa|Tunisia 突尼斯 Tunis 突尼斯市 Africa
Algeria 阿尔及利亚 Algiers 阿尔及尔 Africa|Morocco 摩洛哥 Rabat 拉巴特 Africa|Sudan 苏丹 Khartoum 喀土穆 Africa
Ethiopia 埃塞俄比亚 Addis Ababa 亚的斯亚贝巴 Africa|Kenya 肯尼亚 Nairobi 内罗毕 Africa
Uganda 乌干达 Kampala 坎帕拉 Africa|Rwanda 卢旺达 Kigali 基加利 Africa|Somalia 索马里 Mogadishu 摩加迪沙 Africa
Nigeria 尼日利亚 Abuja 阿布贾 Africa|Ghana 加纳 Accra 阿克拉 Africa|Senegal 塞内加尔 Dakar 达喀尔 Africa
Mali 马里 Bamako 巴马科 Africa|Angola 安哥拉 Luanda 罗安达 Africa|Zambia 赞比亚 Lusaka 卢萨卡 Africa
Zimbabwe 津巴布韦 Harare 哈拉雷 Africa|Mozambique 莫桑比克 Maputo 马普托 Africa
Madagascar 马达加斯加 Antananarivo 塔那那利佛 Africa|Namibia 纳米比亚 Windhoek 温得和克 Africa
the United States 美国 Washington 华盛顿 North America|Canada 加拿大 Ottawa 渥太华 North America
Mexico 墨西哥 Mexico City 墨西哥城 North America|Cuba 古巴 Havana 哈瓦那 North America
Jamaica 牙买加 Kingston 金斯敦 North America|Haiti 海地 Port-au-Prince 太子港 North America
Honduras 洪都拉斯 Tegucigalpa 特古西加尔巴 North America|Nicaragua 尼加拉瓜 Managua 马那瓜 North America
Panama 巴拿马 Panama City 巴拿马城 North America|Costa Rica 哥斯达黎加 San Jose 圣何塞 North America
Brazil 巴西 Brasilia 巴西利亚 South America|Argentina 阿根廷 Buenos Aires 布宜诺斯艾利斯 South America
Chile 智利 Santiago 圣地亚哥 South America|Peru 秘鲁 Lima 利马 South America
Colombia 哥伦比亚 Bogota 波哥大 South America|Venezuela 委内瑞拉 Caracas 加拉加斯 South America
Ecuador 厄瓜多尔 Quito 基多 South America|Uruguay 乌拉圭 Montevideo 蒙得维的亚 South America
Paraguay 巴拉圭 Asuncion 亚松森 South America|Australia 澳大利亚 Canberra 堪培拉 Oceania
New Zealand 新西兰 Wellington 惠灵顿 Oceania|Fiji 斐济 Suva 苏瓦 Oceania
"""


def _country(row: str) -> Country:
    continent = next(each for each in _CONTINENTS if row.endswith(f" {each}"))
    words = row.removesuffix(f" {continent}").split(" ")
    chinese = [index for index, word in enumerate(words) if not word.isascii()]
    first, second = chinese
    return Country(
        en=" ".join(words[:first]),
        zh=words[first],
        capital_en=" ".join(words[first + 1 : second]),
        capital_zh=words[second],
        continent_en=continent,
        continent_zh=_CONTINENTS[continent],
    )


COUNTRIES = tuple(_country(row) for line in _ROWS.split("\n") for row in line.split("|") if row)
