//! The rules and the requests that they are measured with.

use serde::{Deserialize, Serialize};
use std::fmt::{self, Write as _};

/// What rules are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mix {
    /// `prefix(url, …)`
    Url,
    /// `cookie.session == …`
    Cookie,
    /// `header.x-tenant == …`
    Header,
    /// `xml.purchase/customerName == …`, in a body of 1 KB
    Xml,
    /// `regex(url, …)`
    Regex,
}

impl Mix {
    /// Every mix.
    pub const ALL: [Mix; 5] = [Mix::Url, Mix::Cookie, Mix::Header, Mix::Xml, Mix::Regex];

    /// A set of so many rules, of which each takes the request of its number.
    pub(crate) fn rules(self, count: usize) -> String {
        let mut text = String::new();
        for n in 0..count {
            let _ = match self {
                Mix::Url => writeln!(text, "if (prefix(url, \"/app{n}/\")) routeTo(web)"),
                Mix::Cookie => writeln!(text, "if (cookie.session == \"user{n}\") routeTo(web)"),
                Mix::Header => writeln!(text, "if (header.x-tenant == \"tenant{n}\") routeTo(web)"),
                Mix::Xml => writeln!(text, "if (xml.purchase/customerName == \"customer{n}\") routeTo(web)"),
                Mix::Regex => writeln!(text, "if (regex(url, \"^/app{n}/[a-z]+/[0-9]+\\.php$\")) routeTo(web)"),
            };
        }
        text + "default: reject(404)\n"
    }

    /// Bytes of the request's body.
    pub(super) fn body(self) -> Option<usize> {
        (self == Mix::Xml).then_some(1000)
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mix::Url => "url",
            Mix::Cookie => "cookie",
            Mix::Header => "header",
            Mix::Xml => "xml",
            Mix::Regex => "regex",
        })
    }
}

/// The tutorial's purchase order of about so many bytes.
pub(crate) fn purchase(bytes: usize, n: usize) -> String {
    let mut body = format!("<?xml version=\"1.0\"?>\n<purchase>\n  <customerName>customer{n}</customerName>\n");
    let mut item = 0;
    while body.len() + 200 < bytes {
        let _ = writeln!(
            body,
            "  <item><productID>3091{item:05}</productID><productName>IBM Thinkpad T21</productName>\
             <unitPrice>5000</unitPrice><noOfUnits>10</noOfUnits><subTotal>50000</subTotal></item>"
        );
        item += 1;
    }
    let _ = write!(body, "  <totalAmount>{}</totalAmount>\n</purchase>\n", n * 10 + 5);
    body
}

/// A browser's request that the n-th rule of any mix takes; with a body of about so many bytes.
pub(crate) fn request(n: usize, body: Option<usize>) -> Vec<u8> {
    let (method, body) = body.map_or(("GET", String::new()), |bytes| ("POST", purchase(bytes, n)));
    let content = match body.len() {
        0 => String::new(),
        length => format!("Content-Type: text/xml\r\nContent-Length: {length}\r\n"),
    };
    format!(
        "{method} /app{n}/page/{n}.php HTTP/1.1\r\nHost: site{}.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n\
         Accept: text/html,application/xhtml+xml\r\nAccept-Language: en\r\nCookie: theme=dark; session=user{n}\r\n\
         X-Tenant: tenant{n}\r\n{content}\r\n{body}",
        n % 100
    )
    .into_bytes()
}
