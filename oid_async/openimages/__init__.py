"""Facts about Open Images: vocabulary, catalogue of published files, kinds of annotations, classes, ids."""
