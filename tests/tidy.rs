//! The house rules, held by a test: layers, doors, sizes, bans, documents, purity.
//!
//! A single package has no walls made by the compiler; these rules are the walls. Every rule is a function over a
//! [`Tree`] of sources in memory, so that each is itself tested by planted violations. To change a rule, change its
//! table; to add one, add it to [`RULES`] with a planted violation.

mod tidy {
    pub mod bans;
    pub mod documents;
    pub mod doors;
    pub mod imports;
    pub mod layers;
    pub mod planted;
    pub mod purity;
    pub mod sizes;
    pub mod source;
}

use std::path::Path;

use tidy::source::{Tree, Violation};
use tidy::{bans, documents, doors, layers, planted, purity, sizes};

/// A rule's name, and the function that finds what breaks it.
type Rule = (&'static str, fn(&Tree, &mut Vec<Violation>));

const RULES: [Rule; 15] = [
    ("layers", layers::imports_point_downwards),
    ("modules", layers::the_library_lists_its_modules_in_layer_order),
    ("doors", doors::dependencies_are_named_behind_their_doors),
    ("door-table", doors::every_dependency_has_a_door),
    ("file-size", sizes::files_are_short),
    ("function-size", sizes::functions_are_short),
    ("bans", bans::banned_words_are_absent),
    ("places", bans::no_machine_or_registry_is_named),
    ("header", documents::every_file_says_what_it_is),
    ("test-names", documents::test_names_are_sentences),
    ("decisions", documents::decision_records_are_whole_and_numbered_once),
    ("rendered", documents::documents_are_rendered),
    ("links", documents::links_lead_somewhere),
    ("purity", purity::pure_files_are_pure),
    ("pure-names", purity::machines_and_planners_declare_themselves_pure),
];

fn check(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for (name, rule) in RULES {
        let before = found.len();
        rule(tree, &mut found);
        found[before..].iter_mut().for_each(|violation| violation.rule = name);
    }
    found
}

#[test]
fn the_tree_is_tidy() {
    let found = check(&Tree::read(Path::new(env!("CARGO_MANIFEST_DIR"))));
    let report: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{} house rules broken:\n{}", found.len(), report.join("\n"));
}

#[test]
fn a_tree_that_keeps_every_rule_is_left_alone() {
    let found = check(&planted::tidy_tree());
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn every_planted_violation_is_found_by_its_rule_at_its_line() {
    for plant in planted::violations() {
        let found = check(&planted::tidy_tree().with(plant.path, plant.text));
        let hit = found.iter().any(|violation| {
            violation.rule == plant.rule && violation.path == plant.path && violation.line == plant.line
        });
        assert!(hit, "{} at {}:{} was not found, but {found:#?}\n{}", plant.rule, plant.path, plant.line, plant.text);
        assert!(found.iter().all(|violation| violation.rule == plant.rule), "more than {}: {found:#?}", plant.rule);
    }
}

#[test]
fn every_rule_has_a_planted_violation() {
    for (name, _) in RULES {
        assert!(planted::violations().iter().any(|plant| plant.rule == name), "nothing planted for {name}");
    }
}
