//! Pages as they are, as they should be, and as somebody would write them who means ill.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Instant;

use super::*;

fn url() -> Url {
    Url::parse("https://example.org/a/b?c").unwrap()
}

fn page(html: &str) -> Page {
    read(html, &url())
}

fn property(html: &str, name: &str) -> Option<String> {
    page(html).properties.remove(name)
}

fn images(html: &str) -> Vec<String> {
    page(html).images.into_iter().map(String::from).collect()
}

fn guesses(html: &str) -> (Option<String>, Option<String>) {
    let Guesses { title, description } = page(html).guesses;
    (title, description)
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn cm11_open_graph_is_told_as_it_is() {
    let html = r#"<!DOCTYPE html><html prefix="og: https://ogp.me/ns#"><head>
        <meta property="og:title" content="A &amp; B &lt;3 &#x1F600; &eacute;">
        <META PROPERTY='OG:Site_Name' CONTENT='Sites'/>
        <meta name=og:type content=article>
        <meta content="first" property="og:description"><meta content="second" property="og:description">
        <meta property="article:published_time" content="2026-11-30">
        <meta property="og:url" content="/a">
        <meta property="og:video:secure_url" content="../v.mp4"><meta property="og:video:width" content="640">
        <meta property="fb:app_id" content="1"><meta property="og:empty" content="  "><meta property="og:none">
        <meta property="og:odd name" content="x">"#;
    let found: Vec<(String, String)> = page(html).properties.into_iter().collect();
    let found: Vec<(&str, &str)> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let expected = [
        ("article:published_time", "2026-11-30"),
        ("og:description", "first"),
        ("og:site_name", "Sites"),
        ("og:title", "A & B <3 😀 é"),
        ("og:type", "article"),
        ("og:url", "https://example.org/a"),
        ("og:video:secure_url", "https://example.org/v.mp4"),
        ("og:video:width", "640"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn cm11_what_else_a_page_says_stands_in() {
    let card = r#"<meta name="twitter:title" content="T"><meta name="twitter:description" content="D">"#;
    assert_eq!(property(card, "og:title"), some("T"));
    assert_eq!(property(card, "og:description"), some("D"));
    let both = format!("{card}<meta property='og:title' content='O'>");
    assert_eq!(property(&both, "og:title"), some("O"));
    assert_eq!(property("<meta name=Description content=' a  b '>", "og:description"), some("a b"));
    assert_eq!(
        property("<meta property=og:description content=' '><meta name=description content=d>", "og:description"),
        some("d")
    );
}

#[test]
fn cm11_titles_and_descriptions_are_taken_from_the_text() {
    let html = "<title>The\n title &amp; more</title><body><nav>Home <p>Menu</p></nav><h1>Heading</h1>Before\
                <script>if (1 < 2) { '<p>no</p>' }</script><style>p { color: red }</style>\
                <p>First <b>bold</b> words.<p>Second.<div>Other</div><footer>Foot</footer>";
    assert_eq!(guesses(html), (some("The title & more"), some("First bold words. Second.")));
    assert_eq!(guesses("<h1>Only <i>this</i></h1>"), (some("Only this"), some("Only this")));
    assert_eq!(guesses("plain words<br>here"), (None, some("plain words here")));
    assert_eq!(guesses("<svg><title>icon</title></svg><title>page</title><title>other</title>"), (some("page"), None));
    assert_eq!(guesses("<noscript>Please enable it</noscript><script>x</script>"), (None, None));
    assert_eq!(guesses("<nav><nav>a</nav>b</nav>c"), (None, some("c")));
    assert_eq!(guesses(""), (None, None));
    let long = "word ".repeat(1_000);
    let (_, description) = guesses(&format!("<p>{long}"));
    assert_eq!(description.unwrap().chars().count(), DESCRIPTION_CHARS_MAX);
}

#[test]
fn cm11_images_come_in_the_order_of_their_worth() {
    let html = "<img src=small.png width=16 height=16><img src=large.png width=640 height=480>\
                <link rel='image_src' href=/link.png><meta itemprop=image content=item.png>\
                <meta name=twitter:image content='https://img.example/t.png'>\
                <meta property=og:image content='//img.example/o.png'><meta property=og:image:url content='//img.example/o.png'>\
                <meta property=og:image:width content=1><meta property=og:image:alt content='An alternative'>";
    let expected = [
        "https://img.example/o.png",
        "https://img.example/t.png",
        "https://example.org/a/item.png",
        "https://example.org/link.png",
        "https://example.org/a/large.png",
    ];
    assert_eq!(images(html), expected);
    let names: Vec<String> = page(html).properties.into_keys().collect();
    assert_eq!(names, ["og:image:alt"], "the image that clients get is another one");
    assert_eq!(
        images("<base href='https://cdn.example/x/'><base href=/no/><meta property=og:image content=y.png>"),
        ["https://cdn.example/x/y.png"]
    );
    let many = "<meta property=og:image content=a.png>".repeat(100);
    assert_eq!(images(&many).len(), 1);
}

#[test]
fn cm11_descriptions_in_json_are_found() {
    let embed = |html: &str| page(html).embed.map(String::from);
    let link = "<link rel='Alternate nofollow' type='application/json+oembed' href='/oembed?url=a&amp;format=json'>";
    assert_eq!(embed(link), some("https://example.org/oembed?url=a&format=json"));
    for none in [
        "<link rel=alternate type=text/xml+oembed href=/o>",
        "<link rel=stylesheet type=application/json+oembed href=/o>",
        "<link rel=alternate type=application/json+oembed>",
        "<link rel=alternate type=application/json+oembed href='javascript:alert(1)'>",
    ] {
        assert_eq!(embed(none), None, "{none}");
    }
}

/// SEC-preview-text: what is told is text, and leads to the web alone.
#[test]
fn cm11_nothing_that_runs_is_told() {
    for address in [
        "javascript:alert(1)",
        " JavaScript:alert(1)",
        "data:text/html,<script>",
        "vbscript:x",
        "file:///etc/passwd",
        "ftp://a/b",
    ] {
        for name in ["og:url", "og:video", "og:video:url", "og:audio:secure_url", "og:see_also"] {
            assert_eq!(property(&format!("<meta property='{name}' content='{address}'>"), name), None, "{address}");
        }
        assert_eq!(images(&format!("<meta property=og:image content='{address}'>")), [] as [&str; 0], "{address}");
    }
    assert_eq!(property("<meta property=article:author content='javascript:alert(1)'>", "article:author"), None);
    assert_eq!(
        property("<meta property=article:author content='https://a.example/'>", "article:author"),
        some("https://a.example/")
    );
    // Encoded markup is text that looks like markup; it stays what it is, and clients show it as text.
    let (title, description) =
        guesses("<title><script>alert(1)</script></title><p><img src=x onerror=alert(1)>a<b>c</p>");
    assert_eq!((title, description), (some("<script>alert(1)</script>"), some("a c")));
    assert_eq!(
        text_of(
            "<blockquote><p>Hello <a href='javascript:x'>world</a></p><script>x()</script></blockquote>",
            &url(),
            50
        ),
        some("Hello world")
    );
}

/// SEC-preview-parsing: nesting, endless tags, attributes, entities and comments cost no more than other bytes.
#[test]
fn cm11_hostile_pages_cost_little() {
    const BYTES: usize = 1 << 18;
    let repeated = |text: &str| text.repeat(BYTES / text.len());
    let hostile = [
        repeated("<div>"),
        repeated("<p>"),
        repeated("<nav>"),
        repeated("</p>"),
        repeated("<"),
        repeated("<a "),
        repeated("</"),
        repeated("<!"),
        repeated("<!--"),
        repeated("<![CDATA["),
        repeated("<meta property=og:a content=b>"),
        repeated("&amp"),
        repeated("&"),
        repeated("&#x"),
        repeated("<svg><title>"),
        format!("<meta {}", (0..BYTES / 8).map(|n| format!("a{n:x} ")).collect::<String>()),
        format!("<meta {}>", repeated("content=x ")),
        format!("<meta property=og:title content='{}", repeated("x")),
        format!("<title>{}", repeated("x")),
        format!("<script>{}", repeated("<!--<script>")),
        format!("<{}>", repeated("x")),
        (0..BYTES / 40).map(|n| format!("<meta property=og:a{n} content=b>")).collect(),
        repeated("\u{0}"),
        repeated("\u{1f600}"),
    ];
    let began = Instant::now();
    for html in &hostile {
        let page = page(html);
        let kept: usize = page.properties.iter().map(|(name, value)| name.len() + value.len()).sum();
        let start: String = html.chars().take(20).collect();
        assert!(page.properties.len() <= PROPERTIES_MAX && kept <= 64 << 10, "{start}: {kept} bytes");
        assert!(page.guesses.title.is_none_or(|title| title.chars().count() <= PROPERTY_CHARS_MAX), "{start}");
        assert!(page.guesses.description.is_none_or(|text| text.chars().count() <= DESCRIPTION_CHARS_MAX), "{start}");
    }
    // Without optimization, on a busy machine; what grows with the square would take hours.
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
}
