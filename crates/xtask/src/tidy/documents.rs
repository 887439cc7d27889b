//! The documents say what the tree holds.

use super::{Tree, Violation};

/// Checks that ARCHITECTURE.md names every crate.
pub fn check(tree: &Tree, found: &mut Vec<Violation>) {
    let Some((path, text)) = tree.texts.iter().find(|(path, _)| path == "ARCHITECTURE.md") else {
        let message = "the document that explains the house is missing".to_owned();
        found.push(Violation { path: "ARCHITECTURE.md".to_owned(), line: 0, law: "document", message });
        return;
    };
    for manifest in &tree.manifests {
        let folder = manifest.path.trim_start_matches("crates/").trim_end_matches("/Cargo.toml");
        let named = [format!("`{}`", manifest.package), format!("`{folder}`"), format!("`crates/{folder}`")];
        if !named.iter().any(|name| text.contains(name.as_str())) {
            let message = format!("the crate `{folder}` is not mentioned");
            found.push(Violation { path: path.clone(), line: 0, law: "document", message });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::Manifest;

    #[test]
    fn a_crate_that_the_document_does_not_name_is_reported() {
        let manifest = Manifest {
            path: "crates/store/sqlite/Cargo.toml".to_owned(),
            package: "sqlite".to_owned(),
            dependencies: Vec::new(),
            dev_dependencies: Vec::new(),
        };
        let mut tree = Tree { manifests: vec![manifest], ..Tree::default() };
        for (text, violations) in [("the room `store/sqlite`", 0), ("the room `store`", 1)] {
            tree.texts = vec![("ARCHITECTURE.md".to_owned(), text.to_owned())];
            let mut found = Vec::new();
            check(&tree, &mut found);
            assert_eq!(found.len(), violations, "{text}");
        }
    }

    #[test]
    fn a_missing_document_is_reported() {
        let mut found = Vec::new();
        check(&Tree::default(), &mut found);
        assert_eq!(found.len(), 1);
    }
}
