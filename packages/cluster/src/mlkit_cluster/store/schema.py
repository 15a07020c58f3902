"""The tables of a run, as plain SQLite: any program can read them, no view calls our code."""

from __future__ import annotations

VERSION = 1
COMPONENTS = ("box", "cls", "dfl", "seg")

# `embeddings` and `features` bear the names and columns of the earlier system first; what we
# add comes after. An image's metrics and losses stand in the row of its detector's embedding;
# rows of other encoders have NULL there. What is unknown is NULL, never 0.
# `row_checks` and `shards.row_checks` bind what was written to its image or row, so that swapped
# rows are found without the model. `runs.options` holds the parts of the fingerprint.
TABLES = """
CREATE TABLE IF NOT EXISTS metadata (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS runs (
  run_id TEXT PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
  encoder TEXT NOT NULL UNIQUE DEFAULT 'yolo',
  model TEXT NOT NULL, model_sha256 TEXT NOT NULL, imgsz INTEGER, conf REAL, iou REAL,
  target_conf REAL, gains TEXT, components TEXT, names TEXT, options TEXT NOT NULL,
  created_ts REAL NOT NULL, versions TEXT NOT NULL
);

CREATE TABLE IF NOT EXISTS images (
  img_id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, sha TEXT, w INTEGER, h INTEGER,
  split TEXT, ratio REAL, pad_x INTEGER, pad_y INTEGER, error TEXT
);

CREATE TABLE IF NOT EXISTS embeddings (
  id INTEGER PRIMARY KEY, img_id INTEGER NOT NULL REFERENCES images(img_id),
  embedding BLOB NOT NULL, hit_freq REAL, mean_iou REAL, mean_conf REAL, dice_score REAL,
  box_loss REAL, cls_loss REAL, dfl_loss REAL, seg_loss REAL, flag_cat INTEGER,
  flag_supercat INTEGER, encoder TEXT NOT NULL, fingerprint TEXT NOT NULL,
  mean_conf_matched REAL, precision REAL, n_gt INTEGER, n_pred INTEGER, n_match INTEGER,
  n_pos INTEGER, score_sum REAL, UNIQUE (img_id, encoder)
);

CREATE TABLE IF NOT EXISTS features (
  id INTEGER PRIMARY KEY, img_id INTEGER NOT NULL UNIQUE REFERENCES images(img_id),
  gap_features BLOB NOT NULL, bottleneck_features BLOB, created_ts REAL NOT NULL
);

CREATE TABLE IF NOT EXISTS predictions (
  id INTEGER PRIMARY KEY, img_id INTEGER NOT NULL REFERENCES images(img_id),
  box_x1 REAL NOT NULL, box_y1 REAL NOT NULL, box_x2 REAL NOT NULL, box_y2 REAL NOT NULL,
  confidence REAL NOT NULL, class_id INTEGER NOT NULL, class_name TEXT NOT NULL, mask BLOB,
  created_ts REAL NOT NULL, input_x1 REAL NOT NULL, input_y1 REAL NOT NULL,
  input_x2 REAL NOT NULL, input_y2 REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS predictions_img ON predictions (img_id);

CREATE TABLE IF NOT EXISTS labels (
  id INTEGER PRIMARY KEY, img_id INTEGER NOT NULL REFERENCES images(img_id),
  box_x1 REAL NOT NULL, box_y1 REAL NOT NULL, box_x2 REAL NOT NULL, box_y2 REAL NOT NULL,
  class_id INTEGER NOT NULL, class_name TEXT NOT NULL, mask BLOB,
  input_x1 REAL NOT NULL, input_y1 REAL NOT NULL, input_x2 REAL NOT NULL, input_y2 REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS labels_img ON labels (img_id);

CREATE TABLE IF NOT EXISTS image_classes (
  img_id INTEGER NOT NULL REFERENCES images(img_id), source TEXT NOT NULL,
  class_id INTEGER NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (img_id, source, class_id)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS shards (
  component TEXT NOT NULL, row0 INTEGER NOT NULL, row1 INTEGER NOT NULL, path TEXT NOT NULL,
  dtype TEXT NOT NULL, shape TEXT NOT NULL, crc32 INTEGER NOT NULL, state TEXT NOT NULL,
  row_checks BLOB, PRIMARY KEY (component, row0)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS row_checks (
  img_id INTEGER NOT NULL REFERENCES images(img_id), part TEXT NOT NULL, digest BLOB NOT NULL,
  PRIMARY KEY (img_id, part)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS distances (
  id INTEGER PRIMARY KEY, img_i INTEGER NOT NULL, img_j INTEGER NOT NULL,
  component TEXT NOT NULL, distance REAL, created_ts REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS distances_pair ON distances (img_i, img_j);

CREATE TABLE IF NOT EXISTS neighbors (
  img_i INTEGER NOT NULL, rank INTEGER NOT NULL, img_j INTEGER NOT NULL,
  component TEXT NOT NULL, distance REAL NOT NULL, PRIMARY KEY (component, img_i, rank)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS clusterings (
  clustering_id TEXT PRIMARY KEY, params TEXT NOT NULL, created_ts REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS assignments (
  clustering_id TEXT NOT NULL REFERENCES clusterings(clustering_id),
  img_id INTEGER NOT NULL REFERENCES images(img_id), label INTEGER NOT NULL, prob REAL,
  medoid INTEGER, silhouette REAL, PRIMARY KEY (clustering_id, img_id)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS projections (
  projection_id TEXT PRIMARY KEY, params TEXT NOT NULL, created_ts REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS coordinates (
  projection_id TEXT NOT NULL REFERENCES projections(projection_id),
  img_id INTEGER NOT NULL REFERENCES images(img_id), x REAL NOT NULL, y REAL NOT NULL,
  vector BLOB, PRIMARY KEY (projection_id, img_id)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS evaluations (
  evaluation_id TEXT PRIMARY KEY, params TEXT NOT NULL, scores TEXT NOT NULL,
  created_ts REAL NOT NULL
);
"""
